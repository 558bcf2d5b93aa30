"""What a terminal shows, and the log tells, while a recorder that was closed finishes its clips."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from stepreel import ClipState
from stepreel.storage.manifest import read_manifest

from .recordings import poll_until

TRAINING = """
import structlog, logging
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
import stepreel
from stepreel.backends.synthetic import SyntheticBackend
config = stepreel.RecorderConfig(output_dir={folder!r}, video_length=40, video_interval=0)
with stepreel.Recorder(config, SyntheticBackend(snapshot=True, render_delay_s={delay})) as recorder:
    for _ in range(40):
        recorder.step()
"""


def start(tmp_path: Path, delay: float, stderr: int) -> subprocess.Popen[bytes]:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(TRAINING.format(folder=str(tmp_path / "videos"), delay=delay)))
    return subprocess.Popen([sys.executable, script], stdout=subprocess.DEVNULL, stderr=stderr)


def lines_of(tmp_path: Path) -> list[dict[str, object]]:
    lines = (tmp_path / "videos" / "session.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == "recorder.finishing"]


class Terminal:
    """A terminal, and what was shown on it."""

    def __init__(self) -> None:
        self._master, self.fd = pty.openpty()
        os.set_blocking(self._master, False)
        self.text = ""

    def shows(self, text: str) -> bool:
        try:
            self.text += os.read(self._master, 65536).decode(errors="replace")
        except BlockingIOError:
            pass
        return text in self.text

    def close(self) -> None:
        os.close(self._master)
        os.close(self.fd)


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    terminal = Terminal()
    process = start(tmp_path, 0.1, terminal.fd)
    try:
        poll_until(lambda: terminal.shows("Finishing clips") and terminal.shows("/40"))
        assert process.wait(30) == 0
    finally:
        process.kill()
        terminal.close()
    assert read_manifest(tmp_path / "videos" / "rl-video-step-0.json").state is ClipState.COMPLETE


def test_the_log_gets_a_line_where_it_takes_long(tmp_path: Path) -> None:
    process = start(tmp_path, 0.15, subprocess.PIPE)
    _, stderr = process.communicate(timeout=50)
    assert process.returncode == 0
    assert stderr == b""
    (line, *_) = lines_of(tmp_path)
    left = line["frames_left"]
    assert isinstance(left, int)
    assert 0 < left < 40


@pytest.mark.parametrize("delay", [0.0])
def test_what_is_soon_finished_is_not_worth_a_word(tmp_path: Path, delay: float) -> None:
    process = start(tmp_path, delay, subprocess.PIPE)
    _, stderr = process.communicate(timeout=50)
    assert (process.returncode, stderr) == (0, b"")
    assert lines_of(tmp_path) == []


def test_an_interrupt_takes_the_bar_away_and_leaves_playable_clips(tmp_path: Path) -> None:
    terminal = Terminal()
    process = start(tmp_path, 0.3, terminal.fd)
    try:
        poll_until(lambda: terminal.shows("Finishing clips"))
        process.send_signal(signal.SIGINT)
        process.wait(30)
        assert terminal.shows("KeyboardInterrupt")
    finally:
        process.kill()
        terminal.close()
    clip = read_manifest(tmp_path / "videos" / "rl-video-step-0.json")
    assert clip.state is ClipState.INCOMPLETE
    assert clip.frames.encoded > 0
    assert clip.segments
