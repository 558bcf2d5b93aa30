"""`stepreel ps` and `stepreel wait`, with recording services that go on when their training has ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from stepreel.background import RunningService, recording_into, running_services, wait_until_finished
from stepreel.storage.folder_lock import FolderLock
from stepreel.storage.manifest import read_manifest

from ..recordings import poll_until
from .conftest import Command

TRAINING = """
import sys, time
from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend

folder, frames, delay_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
config = RecorderConfig(output_dir=folder, video_length=frames, video_interval=0, finish="background")
backend = SyntheticBackend(width=64, height=64, snapshot=True, render_delay_s=delay_s)
with Recorder(config, backend) as recorder:
    for _ in range(frames):
        recorder.step()
    print("captured", flush=True)
    sys.stdin.readline()
print("closed", flush=True)
sys.stdin.readline()
"""


class Training:
    """A training program that captures a clip at once, and then waits to be told to close its recorder."""

    def __init__(self, folder: Path, *, frames: int, delay_s: float) -> None:
        self._program = subprocess.Popen(
            [sys.executable, "-c", TRAINING, str(folder), str(frames), str(delay_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read_until("captured")

    def close_the_recorder(self) -> None:
        self._tell()
        self._read_until("closed")

    def end(self) -> None:
        self._tell()
        assert self._program.wait(20) == 0

    def kill(self) -> None:
        self._program.kill()
        self._program.wait(20)

    def _tell(self) -> None:
        assert self._program.stdin
        self._program.stdin.write("\n")
        self._program.stdin.flush()

    def _read_until(self, word: str) -> None:
        assert self._program.stdout
        assert word in iter(lambda: self._program.stdout.readline().strip(), "")  # type: ignore[union-attr]

    def let_go(self) -> None:
        self._program.kill()
        self._program.communicate()


@contextmanager
def training(folder: Path, *, frames: int = 100, delay_s: float = 0.02) -> Iterator[Training]:
    """Yield a training program, and end it and its service afterwards."""
    program = Training(folder, frames=frames, delay_s=delay_s)
    try:
        yield program
    finally:
        program.let_go()
        for service in services_of(folder):
            os.kill(service.pid, signal.SIGKILL)
        assert wait_until_finished(folder, timeout_s=20)


def services_of(folder: Path) -> list[RunningService]:
    return [service for service in running_services() if service.folder == folder]


def listed(stepreel: Command, folder: Path) -> list[dict[str, Any]]:
    """Return what `stepreel ps --json` says of the services of a folder."""
    result = stepreel("ps", "--json")
    assert result.exit_code == 0
    return [found for found in map(json.loads, result.stdout.splitlines()) if found["folder"] == str(folder)]


def row(stepreel: Command, folder: Path) -> str:
    """Return the row of a folder in the table of `stepreel ps`."""
    (found,) = [line for line in stepreel("ps").stdout.splitlines() if line.rstrip().endswith(str(folder))]
    return str(found)


def test_a_service_is_listed_while_its_training_records_and_while_it_finishes_by_itself(
    stepreel: Command, output_dir: Path
) -> None:
    begun = datetime.now(UTC)
    with training(output_dir, delay_s=0.1) as program:
        (service,) = listed(stepreel, output_dir)
        assert (service["training"], service["frames_left"], service["clips_left"]) == ("runs", None, None)
        assert abs(datetime.fromisoformat(service["started_at"]) - begun) < timedelta(seconds=20)
        assert "runs" in row(stepreel, output_dir)
        program.close_the_recorder()
        poll_until(lambda: listed(stepreel, output_dir)[0]["frames_left"] is not None)
        (after,) = listed(stepreel, output_dir)
        assert after["pid"] == service["pid"]
        assert after["training"] == "runs"
        assert 0 < after["frames_left"] <= 100
        assert after["clips_left"] == 1
        program.end()
        (alone,) = listed(stepreel, output_dir)
        assert alone["training"] == "ended"
        assert "frames, 1 clip" in row(stepreel, output_dir)


def test_the_service_of_a_training_that_was_killed_is_waited_for_and_finishes_its_clip(
    stepreel: Command, output_dir: Path
) -> None:
    with training(output_dir) as program:
        program.kill()
        poll_until(lambda: listed(stepreel, output_dir)[0]["training"] == "ended")
        result = stepreel("wait", output_dir)
        assert (result.exit_code, result.stdout) == (0, f"{output_dir}: nobody records into it any more\n")
        assert listed(stepreel, output_dir) == []
        clip = read_manifest(output_dir / "rl-video-step-0.json")
        assert clip.frames.encoded == 100


def test_waiting_begins_while_training_records_and_ends_with_the_last_clip(stepreel: Command, output_dir: Path) -> None:
    with training(output_dir) as program:
        waiting = subprocess.Popen([sys.executable, "-m", "stepreel.cli", "wait", str(output_dir)])
        program.close_the_recorder()
        program.end()
        assert waiting.wait(30) == 0
        assert services_of(output_dir) == []
        assert read_manifest(output_dir / "rl-video-step-0.json").frames.encoded == 100


def test_a_terminal_shows_how_many_frames_are_left(output_dir: Path) -> None:
    with training(output_dir, delay_s=0.03) as program:
        program.kill()
        screen, terminal = os.openpty()
        waiting = subprocess.Popen([sys.executable, "-m", "stepreel.cli", "wait", str(output_dir)], stderr=terminal)
        os.close(terminal)
        with open(screen, "rb", buffering=0) as file:
            shown = b""
            while data := _read_terminal(file):
                shown += data
        assert waiting.wait(30) == 0
    left = [int(count) for count in re.findall(rb"(\d+) frames? left", shown)]
    assert b"Finishing clips" in shown
    assert left == sorted(left, reverse=True)
    assert len(set(left)) > 1


def _read_terminal(file: FileIO) -> bytes:
    try:
        return file.read(4096) or b""
    except OSError:  # Nobody has the other end any more.
        return b""


def test_what_takes_longer_than_the_timeout_is_exit_1_with_what_is_left(stepreel: Command, output_dir: Path) -> None:
    with training(output_dir, delay_s=0.2) as program:
        result = stepreel("wait", "--timeout", 0, output_dir)
        assert (result.exit_code, result.stderr) == (1, f"{output_dir}: still recorded into after 0 s\n")
        program.kill()
        poll_until(lambda: listed(stepreel, output_dir)[0]["frames_left"] is not None)
        result = stepreel("wait", "--timeout", 0.3, output_dir)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"{output_dir}: still recorded into after 0.3 s, ")
        assert result.stderr.endswith(" frames left\n")


def test_a_relative_path_is_the_same_folder(
    stepreel: Command, output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with training(output_dir, delay_s=0.2):
        monkeypatch.chdir(output_dir.parent)
        result = stepreel("wait", "--timeout", 0, output_dir.name)
        assert (result.exit_code, result.stderr) == (1, f"{output_dir.name}: still recorded into after 0 s\n")
        (service,) = recording_into(Path(output_dir.name)).services
        assert service.folder == output_dir


def test_a_service_that_holds_no_lock_any_more_is_waited_for(stepreel: Command, output_dir: Path) -> None:
    with training(output_dir, delay_s=0.2) as program:
        program.kill()
        (output_dir / ".stepreel.lock").unlink()
        assert stepreel("wait", "--timeout", 0, output_dir).exit_code == 1


def test_a_recorder_without_a_service_is_waited_for_by_its_lock(stepreel: Command, tmp_path: Path) -> None:
    lock = FolderLock.share(tmp_path)
    assert stepreel("wait", "--timeout", 0, tmp_path).exit_code == 1
    lock.release()
    assert stepreel("wait", tmp_path).exit_code == 0


def test_a_service_that_died_is_not_the_end_while_training_starts_another(output_dir: Path) -> None:
    with training(output_dir, delay_s=0.2):
        (first,) = services_of(output_dir)
        os.kill(first.pid, signal.SIGKILL)
        assert not wait_until_finished(output_dir, timeout_s=3)
        (second,) = services_of(output_dir)
        assert second.pid != first.pid


def test_a_folder_into_which_nobody_records_is_nothing_to_wait_for(stepreel: Command, tmp_path: Path) -> None:
    result = stepreel("wait", tmp_path)
    expected = f"{tmp_path}: nobody records into it, there is nothing to wait for\n"
    assert (result.exit_code, result.stdout) == (0, expected)


def test_a_folder_that_is_not_there_is_refused(stepreel: Command, tmp_path: Path) -> None:
    result = stepreel("wait", tmp_path / "nothing")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_a_status_file_that_makes_no_sense_is_no_status(output_dir: Path) -> None:
    with training(output_dir, delay_s=0.2):
        (service,) = services_of(output_dir)
        for text in ("", "[", "[1]", '{"frames_left": "many"}', '{"frames_left": -1, "clips_left": true}'):
            (output_dir / f".stepreel-{service.pid}").write_text(text)
            (found,) = services_of(output_dir)
            assert (found.frames_left, found.clips_left) == (None, None)


def test_the_program_of_the_service_says_what_it_is_and_whom_it_serves(output_dir: Path) -> None:
    command = [sys.executable, "-m", "stepreel.service", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "The recording service of stepreel." in told
    assert "stepreel ps" in told
    with training(output_dir, delay_s=0.2):
        (service,) = services_of(output_dir)
        assert Path(f"/proc/{service.pid}/comm").read_text() == "stepreel\n"
        assert f"--folder={output_dir}" in Path(f"/proc/{service.pid}/cmdline").read_text().split("\0")
