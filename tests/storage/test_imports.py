"""The recording service stays small: what it takes from here brings neither numpy nor FFmpeg along."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = [
    "clip",
    "config",
    "errors",
    "storage.files",
    "storage.folder_lock",
    "storage.manifest",
    "storage.segment_label",
    "storage.session_files",
    "storage.snapshot_format",
    "storage.snapshot_writer",
]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_of_the_recording_service_imports_nothing_large(module: str) -> None:
    script = (
        f"import sys, stepreel.{module}\n"
        "print(*sorted({'numpy', 'av', 'anyio', 'gymnasium', 'click', 'rich'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
