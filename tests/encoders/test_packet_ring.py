"""The last seconds of a stream, held in memory."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stepreel import EncodeError
from stepreel.backends.synthetic import SyntheticRenderer
from stepreel.config import EncodeSettings
from stepreel.encoders.packet_ring import PacketRing
from stepreel.storage.inspection import decode_frames

from ..recordings import timed_steps

SETTINGS = EncodeSettings(
    codec="libx264",
    preset="superfast",
    crf=23,
    pix_fmt="yuv420p",
    gop_s=0.5,
    segment_s=None,
    segment_bytes=None,
    fps=Fraction(20),
)


class Film:
    """Frames of a ring, drawn as they are written."""

    def __init__(self, *, limit_s: float = 2.0, limit_nbytes: int = 10**9, stride: int = 1) -> None:
        self.stride = stride
        self.ring = PacketRing(SETTINGS, start_step=0, frame_stride=stride, limit_s=limit_s, limit_nbytes=limit_nbytes)
        self._renderer = SyntheticRenderer(width=320, height=180)
        self._renderer.open()

    def picture(self, step: int, width: int = 320) -> NDArray[np.uint8]:
        renderer = SyntheticRenderer(width=width, height=width * 9 // 16)
        renderer.open()
        picture = np.empty((renderer.height, renderer.width, 3), np.uint8)
        renderer.draw(step, picture)
        return picture

    def write(self, steps: range, width: int = 320) -> None:
        for step in steps:
            self.ring.write(self.picture(step, width), step=step, pts=step // self.stride, codec="libx264")


@pytest.mark.parametrize("stride", [1, 3])
def test_the_last_seconds_are_written_with_each_frame_at_its_time(tmp_path: Path, stride: int) -> None:
    film = Film(stride=stride)
    film.write(range(0, 100 * stride, stride))
    saved = film.ring.save(tmp_path, "last", seconds=2.0)
    assert saved
    assert saved.steps[-1] == 99 * stride
    assert 40 <= len(saved.steps) <= 40 + SETTINGS.gop_frames
    shown = timed_steps(tmp_path / "last.mp4", 20.0)
    assert [step for _, step in shown] == list(saved.steps)
    assert [round(pts) for pts, _ in shown] == list(range(len(saved.steps)))
    assert (saved.segment.first_step, saved.segment.frames) == (saved.steps[0], len(saved.steps))
    assert saved.segment.duration_s == pytest.approx(len(saved.steps) / 20)
    assert [step for step, _ in decode_frames(tmp_path / "last.mp4")] == list(saved.steps)


def test_fewer_seconds_than_are_held_may_be_asked_for(tmp_path: Path) -> None:
    film = Film(limit_s=4.0)
    film.write(range(100))
    saved = film.ring.save(tmp_path, "last", seconds=1.0)
    assert saved
    assert 20 <= len(saved.steps) <= 20 + SETTINGS.gop_frames


def test_frames_that_are_missing_leave_the_others_at_their_time(tmp_path: Path) -> None:
    film = Film()
    film.write(range(0, 10))
    film.write(range(17, 31))
    saved = film.ring.save(tmp_path, "last", seconds=2.0)
    assert saved
    shown = timed_steps(tmp_path / "last.mp4", 20.0)
    assert [(round(pts), step) for pts, step in shown] == [(step, step) for step in (*range(10), *range(17, 31))]


def test_no_more_bytes_are_held_than_allowed(tmp_path: Path) -> None:
    film = Film(limit_s=100.0, limit_nbytes=60_000)
    film.write(range(150))
    saved = film.ring.save(tmp_path, "last", seconds=100.0)
    assert saved
    assert saved.steps[0] > 0
    assert saved.segment.nbytes < 90_000


def test_a_ring_that_was_saved_begins_anew(tmp_path: Path) -> None:
    film = Film()
    film.write(range(30))
    assert film.ring.save(tmp_path, "first", seconds=2.0)
    assert film.ring.save(tmp_path, "nothing", seconds=2.0) is None
    film.write(range(30, 45))
    saved = film.ring.save(tmp_path, "second", seconds=2.0)
    assert saved
    assert saved.steps == tuple(range(30, 45))


def test_pictures_of_the_last_size_are_written(tmp_path: Path) -> None:
    film = Film()
    film.write(range(12))
    film.write(range(12, 20), width=480)
    saved = film.ring.save(tmp_path, "last", seconds=2.0)
    assert saved
    assert (saved.width, saved.height, saved.steps) == (480, 270, tuple(range(12, 20)))


def test_a_file_that_can_not_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    film = Film()
    film.write(range(12))
    (tmp_path / "last.mp4").write_text("somebody's")
    with pytest.raises(EncodeError, match=r"last\.000\.mp4\.part can't be written"):
        film.ring.save(tmp_path, "last", seconds=2.0)
    assert (tmp_path / "last.mp4").read_text() == "somebody's"
