"""What training has of its recording service: a latch to wait at, and the caller's log."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import structlog

from stepreel import ClipState, Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.link import HookCall, Latch, _CallerLog

from .interruptions import interrupt_everywhere


def test_whoever_waits_at_a_latch_passes_once_it_is_open_and_everybody_later() -> None:
    latch = Latch()
    passed: list[bool] = []
    threads = [threading.Thread(target=lambda: passed.append(latch.wait())) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert not latch.wait(0.01)
    latch.open()
    latch.open()
    for thread in threads:
        thread.join(10)
    assert passed == [True] * 4
    assert latch.wait(0.0)


def test_a_wait_that_is_interrupted_anywhere_leaves_the_latch_as_it_was() -> None:
    def make() -> tuple[Latch, Latch]:
        shut, opened = Latch(), Latch()
        opened.open()
        return shut, opened

    def use(latches: tuple[Latch, Latch]) -> None:
        shut, opened = latches
        shut.wait(0.0)
        opened.wait()

    for shut, _ in interrupt_everywhere(make, use):
        assert not shut.wait(0.0)
        shut.open()
        assert shut.wait(1.0)


def test_a_log_processor_of_the_caller_that_fails_is_told_of() -> None:
    told: list[tuple[str, dict[str, Any]]] = []

    def fail(*_: object) -> dict[str, object]:
        raise ValueError("no")

    log = _CallerLog(lambda event, **facts: told.append((event, facts)))
    log._logger = structlog.wrap_logger(None, processors=[fail], wrapper_class=structlog.BoundLogger)
    log.write("info", "clip.opened", {"clip": "one"})
    assert told == [("log.failed", {"log_event": "clip.opened", "error": "ValueError: no"})]


def test_events_go_to_the_callers_own_log() -> None:
    with structlog.testing.capture_logs() as lines:
        _CallerLog(lambda event, **facts: None).write("warning", "worker.lost", {"status": -9})
    assert lines == [{"event": "worker.lost", "log_level": "warning", "status": -9}]


class Unspeakable(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("not even a text")


def test_a_hook_may_raise_anything_and_is_over_all_the_same() -> None:
    for error in (ValueError("no"), SystemExit(3), KeyboardInterrupt(), Unspeakable()):
        events: list[object] = []

        def call(error: BaseException = error) -> None:
            raise error

        HookCall(name="on_clip_closed", call=call, failed=events.append, done=lambda: events.append("done")).run()  # noqa: B023
        assert events == [error, "done"]


def test_a_service_records_into_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    config = RecorderConfig(output_dir=tmp_path / "half \udc80", video_length=3, video_interval=0)
    with Recorder(config, SyntheticBackend(width=64, height=48)) as recorder:
        for _ in range(4):
            recorder.step()
    (clip,) = recorder.summary().clips
    assert clip.state is ClipState.COMPLETE
    assert all(path.exists() for path in clip.paths)
