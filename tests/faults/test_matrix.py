"""The matrix, each row with one seed: a smaller `make faults`, run with the other tests."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .harness import ROOT
from .rows import ROWS

THEMES = sorted({row.theme for row in ROWS.values() if not row.slow})


@pytest.mark.timeout(180)
@pytest.mark.faults
@pytest.mark.parametrize("theme", THEMES)
def test_what_is_promised_of_a_fault_holds(theme: str) -> None:
    # A command of its own: it mounts things, which this process should not see, and does two rows at a time.
    rows = [f"--row={row.name}" for row in ROWS.values() if row.theme == theme and not row.slow]
    command = [sys.executable, "-m", "tests.faults", "--short", "--seeds=1", *rows]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
