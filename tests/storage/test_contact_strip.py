"""A contact strip shows the pictures of a clip that it says it shows, wherever they lie in its files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stepreel.clip import Clip
from stepreel.encoders.segment_writer import ClipWriter
from stepreel.errors import OutputError
from stepreel.storage.contact_strip import contact_strip
from stepreel.storage.manifest import read_manifest, write_manifest

from ..encoders.test_segment_writer import SETTINGS, number_in, picture, write
from .leftovers import state_of

WIDTH, HEIGHT = 96, 64


def numbers_in(strip: NDArray[np.uint8]) -> list[int]:
    assert strip.dtype == np.uint8
    assert strip.shape[0] == HEIGHT
    return [number_in(strip[:, left : left + WIDTH]) for left in range(0, strip.shape[1], WIDTH)]


@pytest.mark.parametrize(("count", "shown"), [(1, [0]), (2, [0, 40]), (5, [0, 10, 20, 30, 40]), (100, list(range(41)))])
@pytest.mark.parametrize("preset", ["ultrafast", "superfast"])
def test_the_pictures_are_spread_evenly_from_the_first_to_the_last(
    tmp_path: Path, count: int, shown: list[int], preset: str
) -> None:
    (segment,) = write(tmp_path, range(41), encode=replace(SETTINGS, preset=preset))
    assert numbers_in(contact_strip(tmp_path / segment.file, count, HEIGHT)) == shown


def test_pictures_keep_their_proportions_in_another_height(tmp_path: Path) -> None:
    (segment,) = write(tmp_path, range(3))
    strip = contact_strip(tmp_path / segment.file, 3, 32)
    assert strip.shape == (32, 3 * 48, 3)
    assert abs(int(strip[16, 10, 0]) - 40) < 6  # The ground, in its own colour.


def test_a_very_wide_picture_is_squeezed(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path, "clip", SETTINGS, start_step=0, frame_stride=1)
    for number in range(2):
        writer.write(np.zeros((2, 4096, 3), np.uint8), step=number, pts=number)
    writer.close()
    assert contact_strip(tmp_path / "clip.mp4", 2, 32).shape == (32, 2 * 16 * 32, 3)


def test_dropped_frames_are_passed_over(tmp_path: Path) -> None:
    (segment,) = write(tmp_path, [0, 1, 2, 30, 31])
    assert numbers_in(contact_strip(tmp_path / segment.file, 3, HEIGHT)) == [0, 2, 31]


def test_a_manifest_stands_for_all_segments(tmp_path: Path) -> None:
    clip = _clip_of(tmp_path, write(tmp_path, range(61), encode=replace(SETTINGS, segment_s=1.0)))
    assert len(clip.segments) > 1
    assert numbers_in(contact_strip(tmp_path / "clip.json", 4, HEIGHT)) == [0, 20, 40, 60]
    assert clip.paths == tuple(tmp_path / segment.file for segment in clip.segments)


def test_an_open_segment_shows_what_is_in_it_so_far(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path, "clip", SETTINGS, start_step=0, frame_stride=1)
    for number in range(40):
        writer.write(picture(number), step=number, pts=number)
    writer.abandon()
    (part,) = tmp_path.glob("*.part")
    shown = numbers_in(contact_strip(part, 2, HEIGHT))
    assert shown[0] == 0
    assert 15 <= shown[1] < 40


def test_what_holds_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.mp4").write_bytes(b"no video")
    with pytest.raises(OutputError, match=r"other\.mp4 can't be played"):
        contact_strip(tmp_path / "other.mp4", 3, HEIGHT)
    _clip_of(tmp_path, [])
    with pytest.raises(OutputError, match=r"clip\.json holds no frame"):
        contact_strip(tmp_path / "clip.json", 3, HEIGHT)


def _clip_of(folder: Path, segments: Iterable[object]) -> Clip:
    write_manifest(folder, state_of("clip", segments=tuple(segments)))
    return read_manifest(folder / "clip.json")
