"""Which strategies benchmarks measure, and their options: alike in the simulator, the engine and the Serve stack.

The names are those of `deployments.scheduling.registry`: a new shipped strategy is measured without a change here.
"""

from __future__ import annotations

from typing import Any

from deployments.scheduling.registry import POLICIES, STRATEGIES, find_strategy

#: Defaults of ``--strategies``: all; those that run in an engine; of these, those that take steps of their own.
#: per_tail takes those of per_tail_shared and differs in memory, which neither the simulator nor its check looks at.
ALL = ",".join(STRATEGIES)
IN_ENGINE = ",".join(POLICIES)
OWN_STEPS = ",".join(name for name in POLICIES if name != "per_tail")


def options_of(strategy: str, slo_s: float, share: float = 0.5) -> dict[str, Any]:
    """Of the strategy, at an SLO. One that keeps slack against an SLO (lazy) does so against a share of it; half
    simulated best."""
    return {"slo_s": slo_s * share} if find_strategy(strategy).takes("slo_s") else {}
