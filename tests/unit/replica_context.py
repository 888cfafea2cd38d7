"""What stands in for the replica of Serve in which a server under test would run."""

from __future__ import annotations

import pytest
from ray.serve import context
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.config import DeploymentConfig
from ray.serve.schema import ReplicaRank


def put_replica_context(patch: pytest.MonkeyPatch) -> None:
    """`@serve.batch` asks its replica for max_ongoing_requests; this is all of a replica that it needs."""
    patch.setattr(context, "_INTERNAL_REPLICA_CONTEXT", None)
    context._set_internal_replica_context(
        replica_id=ReplicaID("unit", DeploymentID("TailServer", "unit")),
        servable_object=lambda: None,
        _deployment_config=DeploymentConfig(max_ongoing_requests=1000),
        rank=ReplicaRank(rank=0, node_rank=0, local_rank=0),
        world_size=1,
    )
