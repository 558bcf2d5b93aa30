"""The file of a run's step counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepreel import OutputError
from stepreel.storage.step_counts import STEP_COUNTS_FILE, read_step_counts, step_counts_file


def test_each_rank_has_a_file_of_its_own() -> None:
    assert step_counts_file("session") == STEP_COUNTS_FILE
    assert step_counts_file("session-rank3") == "session-rank3-pace.json"


def leave_step_counts(folder: Path, **changes: Any) -> None:
    found = {"schema": 1, "started_at": "2026-01-01T00:00:00", "samples": [[0.0, 0], [1.0, 100]], **changes}
    (folder / STEP_COUNTS_FILE).write_text(json.dumps(found))


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"samples": {}},
        {"samples": [[1.0, 1], [0.5, 2]]},
        {"samples": [[0.0, 5], [1.0, 4]]},
        {"samples": [[0.0, -1]]},
        {"samples": [[float("nan"), 1]]},
        {"samples": [[1e300, 1]]},
        {"samples": [["0", 1]]},
        {"started_at": None},
    ],
    ids=str,
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    leave_step_counts(tmp_path)
    assert read_step_counts(tmp_path) is not None
    leave_step_counts(tmp_path, **changes)
    with pytest.raises(OutputError, match=STEP_COUNTS_FILE):
        read_step_counts(tmp_path)


def test_a_link_a_huge_file_and_deep_nesting_are_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text("{}")
    path = tmp_path / STEP_COUNTS_FILE
    path.symlink_to(elsewhere)
    with pytest.raises(OutputError, match="link"):
        read_step_counts(tmp_path)
    path.unlink()
    for text in (" " * (2**20 + 1), "[" * 100_000):
        path.write_text(text)
        with pytest.raises(OutputError, match="is not the step counts of a run"):
            read_step_counts(tmp_path)


def test_no_file_is_no_step_counts(tmp_path: Path) -> None:
    assert read_step_counts(tmp_path) is None
