"""Where a benchmark's document goes: to a results file named theme_hardware_date, and as the last line of stdout."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from actors import provenance

RESULTS = Path(__file__).resolve().parent / "results"


def publish(document: dict[str, Any], out: Path | None, theme: str) -> Path:
    """Write it to `out`, by default to THEME-CPUScpu_DATE.json among the results, and print it; returns the file."""
    if out is None:
        cpus = provenance.hardware()["cpus_usable"]
        out = RESULTS / f"{theme}-{cpus}cpu_{datetime.date.today().isoformat()}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document))
    return out
