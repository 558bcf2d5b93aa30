"""The records of a session: the log, in a file that a full disk may have cut, and the files of one of several ranks."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.clip import ClipState
from stepreel.service.session_log import SessionLog, write_session
from stepreel.storage.inspection import inspect
from stepreel.storage.recovery import recover
from stepreel.storage.session_files import is_record, launched_rank, session_stems
from stepreel.transport.messages import Logged, encode


def log_of(folder: Path, told: list[Logged] | None = None) -> SessionLog:
    return SessionLog(folder, "session", (told if told is not None else []).append)


def test_a_line_that_was_cut_spoils_no_other(tmp_path: Path) -> None:
    log = log_of(tmp_path)
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
    log = log_of(tmp_path)
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


def test_each_event_is_handed_to_the_caller_at_once_and_what_the_caller_knows_is_not(tmp_path: Path) -> None:
    told: list[Logged] = []
    log = log_of(tmp_path, told)
    log.info("clip.opened", clip="one")
    log.append("warning", "hook.failed", {"hook": "on_clip_closed"})
    assert told == [Logged(event="clip.opened", level="info", facts={"clip": "one"})]
    log.write_lines()
    lines = [json.loads(line) for line in (tmp_path / "session.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["clip.opened", "hook.failed"]


def test_trouble_that_repeats_is_logged_once_and_then_counted(tmp_path: Path) -> None:
    told: list[Logged] = []
    log = log_of(tmp_path, told)
    for step in range(5):
        log.trouble("frame.dropped", kind="render_failed", count=2, step=step)
        log.trouble("frame.dropped", kind="disk_full", step=step)
    assert [(one.facts["kind"], one.facts["count"]) for one in told] == [("render_failed", 2), ("disk_full", 1)]
    log.flush_trouble()
    log.flush_trouble()
    assert [(one.facts["kind"], one.facts["count"]) for one in told[2:]] == [("render_failed", 8), ("disk_full", 4)]


def test_lines_that_find_no_disk_are_lost_and_the_next_ones_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    log = log_of(folder)
    log.info("one")
    with pytest.raises(FileNotFoundError):
        log.write_lines()
    assert not log.has_lines
    folder.mkdir()
    log.info("two")
    log.write_lines()
    assert json.loads((folder / "session.jsonl").read_text())["event"] == "two"


def test_the_log_is_never_written_through_a_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (tmp_path / "session.jsonl").symlink_to(elsewhere)
    log = log_of(tmp_path)
    log.info("one")
    with pytest.raises(OSError, match="link"):
        log.write_lines()
    assert elsewhere.read_text() == "mine"


def test_an_event_with_facts_of_any_type_can_be_sent_and_written(tmp_path: Path) -> None:
    told: list[Logged] = []
    log = log_of(tmp_path, told)
    log.info("one", path=tmp_path, state=ClipState.COMPLETE, error="half a pair: \udc80", numbers=(1, 2.5))
    log.write_lines()
    assert all(encode(one) for one in told)
    assert json.loads((tmp_path / "session.jsonl").read_text())["state"] == "complete"


def test_the_session_file_says_where_it_ran(tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    write_session(path, {"schema": 1, "folder": tmp_path}, training_process=7, program="train.py")
    found = json.loads(path.read_text())
    assert (found["schema"], found["folder"]) == (1, str(tmp_path))
    assert (found["host"]["pid"], found["host"]["program"]) == (7, "train.py")
    assert found["host"]["versions"]["numpy"]


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
