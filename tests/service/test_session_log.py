"""The records of a session: the log, in a file that a full disk may have cut, and the files of one of several ranks."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.clip import ClipState
from stepreel.session import SessionLog, launched_rank
from stepreel.storage.inspection import inspect
from stepreel.storage.recovery import recover
from stepreel.storage.session_files import is_record, session_stems


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
        patch.setattr(
            log, "_callers", structlog.wrap_logger(None, processors=[fail], wrapper_class=structlog.BoundLogger)
        )
        log.info("clip.opened", clip="one", step=0)
    log.write_lines()
    opened, failed = map(json.loads, (tmp_path / "session.jsonl").read_text().splitlines())
    assert opened["event"] == "clip.opened"
    assert (failed["event"], failed["log_event"]) == ("log.failed", "clip.opened")


@pytest.mark.parametrize(
    ("rank", "world_size", "found"),
    [("2", "4", 2), ("0", "2", 0), ("0", "1", None), ("", "4", None), ("2", "", None), ("-1", "4", None)],
)
def test_a_rank_is_one_of_several(
    monkeypatch: pytest.MonkeyPatch, rank: str, world_size: str, found: int | None
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world_size)
    assert launched_rank() == found


def test_each_rank_has_files_of_its_own(output_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        with Recorder(
            RecorderConfig(output_dir=output_dir, video_length=5, video_interval=0),
            SyntheticBackend(width=64, height=48),
        ) as recorder:
            for _ in range(5 + rank):
                recorder.step()
    for rank in range(2):
        clip = f"rl-video-rank{rank}-step-0"
        own = {path.name for path in output_dir.iterdir() if f"rank{rank}" in path.name}
        session = f"session-rank{rank}"
        assert own == {f"{clip}.mp4", f"{clip}.json", f"{session}.json", f"{session}.jsonl", f"{session}-pace.json"}
        facts = json.loads((output_dir / f"{session}.json").read_text())
        assert facts["configuration"]["name_prefix"] == f"rl-video-rank{rank}"
        assert facts["ended_at"]
        assert json.loads((output_dir / f"{session}-pace.json").read_text())["samples"][-1][1] == 5 + rank
        assert f'"{clip}"' in (output_dir / f"{session}.jsonl").read_text()
    assert not (output_dir / "session.json").exists()
    assert len(inspect(output_dir).clips) == 2
    assert not inspect(output_dir).differences
    assert recover(output_dir).sound_count == 2


def test_names_of_records_are_told_from_names_of_clips() -> None:
    records = ("session", "session-pace", "session-rank0", "session-rank12-pace")
    assert all(map(is_record, records))
    others = ("session-2", "session-rank", "session-rank-1", "session-step-0", "my-session", "session-rank1-step-0", "")
    assert not any(map(is_record, others))


def test_sessions_of_a_folder_are_listed_by_rank() -> None:
    entries = ["session-rank10.json", "session-rank2.json", "session-rank3-pace.json", "session.json", "session.jsonl"]
    assert session_stems(entries) == ["session", "session-rank2", "session-rank10"]
