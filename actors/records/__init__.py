"""What is kept of each request: where its time went.

Not here: figures over many (`actors.report.statistics`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicer.core.common.lazy import lazy

if TYPE_CHECKING:
    from slicer.core.records.record import Record

__all__ = ["Record"]

__getattr__ = lazy(__name__, {"Record": "slicer.core.records.record"})
