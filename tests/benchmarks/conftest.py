"""The benchmarks are programs beside the package: their folder is where they are run from."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
