"""What importing the recorder costs a training script."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable


def test_import(hold_against: Callable[..., None]) -> None:
    hold_against(
        lambda: run("from stepreel import Recorder, RecorderConfig; RecorderConfig(output_dir='.')"),
        lambda: run("import numpy"),
        title="Python, `from stepreel import Recorder` and a `RecorderConfig`",
        against="Python and `import numpy`",
        rounds=12,
    )


def run(statements: str) -> None:
    subprocess.run([sys.executable, "-c", statements], check=True)
