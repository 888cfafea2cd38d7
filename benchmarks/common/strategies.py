"""How benchmarks set up a strategy, alike in the simulator, the engine and the Serve stack."""

from __future__ import annotations

from typing import Any


def options_of(strategy: str, slo_s: float, lazy_share: float = 0.5) -> dict[str, Any]:
    """Of the strategy, at an SLO. Lazy keeps its slack against a share of it; half simulated best."""
    return {"slo_s": slo_s * lazy_share} if strategy == "lazy" else {}
