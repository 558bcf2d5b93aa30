"""`benchmarks/peers.json`: everything measured, written after each run, so that an interrupted measurement is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

SCHEMA = 2


def load(path: Path) -> dict[str, Any]:
    """Return the results in a file; empty ones where there are none, or of another schema."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if found.get("schema") != SCHEMA:
        return {"schema": SCHEMA, "comparison": None, "rows": {}}
    return found


def save(found: dict[str, Any], path: Path) -> None:
    """Replace the file; it is whole at every moment."""
    fresh = path.with_suffix(".json.part")
    fresh.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    os.replace(fresh, path)
