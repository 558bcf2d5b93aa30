"""The log of a session, in a file that a full disk may have cut."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from stepreel.clip import ClipState
from stepreel.session import SessionLog


def test_a_line_that_was_cut_spoils_no_other(tmp_path: Path) -> None:
    log = SessionLog(tmp_path)
    log.info("clip.opened", clip="first", step=0)
    log.write_lines()
    path = tmp_path / "session.jsonl"
    path.write_bytes(path.read_bytes() + b'{"clip": "sec')
    log.info("clip.opened", clip="third", step=9)
    log.write_lines()
    first, torn, third = path.read_text().splitlines()
    assert torn == '{"clip": "sec'
    assert [json.loads(line)["clip"] for line in (first, third)] == ["first", "third"]
    assert path.read_bytes().endswith(b"\n")


def test_a_line_says_when_what_happened_and_how_bad_it_is(tmp_path: Path) -> None:
    log = SessionLog(tmp_path)
    before = datetime.now(UTC)
    log.info("clip.closed", clip="one", state=ClipState.COMPLETE, dropped={"queue_full": 2}, folder=tmp_path)
    log.warning("worker.lost", status=-9)
    log.write_lines()
    closed, lost = map(json.loads, (tmp_path / "session.jsonl").read_text().splitlines())
    assert before <= datetime.fromisoformat(closed.pop("timestamp")) <= datetime.now(UTC)
    assert closed == {
        "clip": "one",
        "state": "complete",
        "dropped": {"queue_full": 2},
        "folder": str(tmp_path),
        "event": "clip.closed",
        "level": "info",
    }
    assert (lost["event"], lost["level"], lost["status"]) == ("worker.lost", "warning", -9)


def test_a_log_processor_of_the_caller_that_fails_is_a_line_of_the_log(tmp_path: Path) -> None:
    def fail(*_: object) -> dict[str, object]:
        raise ValueError("no")

    with structlog.testing.capture_logs(), pytest.MonkeyPatch.context() as patch:
        log = SessionLog(tmp_path)
        patch.setattr(log, "_callers", structlog.wrap_logger(None, processors=[fail]))
        log.info("clip.opened", clip="one", step=0)
    log.write_lines()
    opened, failed = map(json.loads, (tmp_path / "session.jsonl").read_text().splitlines())
    assert opened["event"] == "clip.opened"
    assert (failed["event"], failed["log_event"]) == ("log.failed", "clip.opened")
