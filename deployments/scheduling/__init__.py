"""Which rows the accelerator runs next: strategies, and the queues that they share.

Not here: running them (`deployments.engine`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicer.core.common.lazy import lazy

if TYPE_CHECKING:
    from deployments.scheduling.queue_policy import QueuePolicy
    from deployments.scheduling.scheduler import SHARED, Policy, Row, Step

__all__ = ["SHARED", "Policy", "QueuePolicy", "Row", "Step"]

__getattr__ = lazy(
    __name__,
    {
        "Policy": "deployments.scheduling.scheduler",
        "QueuePolicy": "deployments.scheduling.queue_policy",
        "Row": "deployments.scheduling.scheduler",
        "SHARED": "deployments.scheduling.scheduler",
        "Step": "deployments.scheduling.scheduler",
    },
)
