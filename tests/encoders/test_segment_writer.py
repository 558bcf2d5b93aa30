from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import stepreel
from stepreel.clip import DropCause, Segment
from stepreel.config import EncodeSettings
from stepreel.encoders.segment_writer import ClipWriter
from stepreel.errors import EncodeError
from stepreel.storage.inspection import decode_frames
from stepreel.storage.segment_container import SegmentLabel

SETTINGS = EncodeSettings(
    codec="libx264",
    preset="ultrafast",
    crf=18,
    pix_fmt="yuv420p",
    gop_s=0.5,
    segment_s=None,
    segment_bytes=None,
    fps=Fraction(30),
)
BITS = 12
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(stepreel.__file__).parent.parent)}
"""Lets a subprocess import the stepreel that is tested."""


def picture(number: int, *, width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    """Draw `number` as stripes that survive encoding."""
    pixels = np.full((height, width, 3), 40, dtype=np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            pixels[:, bit * 8 : bit * 8 + 8] = 220
    return pixels


def number_in(pixels: NDArray[np.uint8]) -> int:
    return sum(1 << bit for bit in range(BITS) if pixels[8:-8, bit * 8 + 2 : bit * 8 + 6].mean() > 128)


def write(
    folder: Path,
    pts: Iterable[int],
    *,
    name: str = "clip",
    encode: EncodeSettings = SETTINGS,
    start_step: int = 0,
    stride: int = 1,
    end_pts: int | None = None,
) -> list[Segment]:
    writer = ClipWriter(folder, name, encode, start_step=start_step, frame_stride=stride)
    closed: list[Segment] = []
    for number in pts:
        step = start_step + number * stride
        closed += writer.write(picture(step), step=step, pts=number)
    closed += writer.close(end_pts)
    assert writer.segments == tuple(closed)
    return closed


def end_pts_of(path: Path) -> Fraction:
    """The end of the last frame, in frames of 1/30 s."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.start_time is not None
        assert stream.duration is not None
        assert stream.time_base is not None
        return (stream.start_time + stream.duration) * stream.time_base * 30


def ffprobe(path: Path, entries: str) -> dict[str, str]:
    program = shutil.which("ffprobe")
    if program is None:
        pytest.skip("ffprobe is not installed")
    command = [program, "-v", "error", "-count_frames", "-show_entries", entries, "-of", "json", str(path)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {**found["format"], **found["streams"][0]}


def test_every_frame_tells_its_step(tmp_path: Path) -> None:
    segments = write(tmp_path, range(50), start_step=100, stride=3)
    (expected,) = segments
    assert (expected.file, expected.frames) == ("clip.mp4", 50)
    assert (expected.first_step, expected.last_step) == (100, 247)
    assert expected.duration_s == pytest.approx(50 / 30)
    assert expected.nbytes == (tmp_path / "clip.mp4").stat().st_size
    frames = list(decode_frames(tmp_path / "clip.mp4"))
    assert [step for step, _ in frames] == [number_in(pixels) for _, pixels in frames] == list(range(100, 250, 3))
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_dropped_frames_shift_nothing(tmp_path: Path) -> None:
    kept = [*range(7, 20), *range(35, 60)]
    (segment,) = write(tmp_path, kept, end_pts=80)
    assert [step for step, _ in decode_frames(tmp_path / "clip.mp4")] == kept
    assert segment.duration_s == pytest.approx(80 / 30)
    assert end_pts_of(tmp_path / "clip.mp4") == 80


def test_ffprobe_sees_true_times_and_colors(tmp_path: Path) -> None:
    write(tmp_path, range(3, 60))
    entries = "stream=start_time,nb_read_frames,color_range,color_space,color_transfer,color_primaries"
    found = ffprobe(tmp_path / "clip.mp4", entries + ":format=duration")
    assert float(found["start_time"]) == pytest.approx(3 / 30)
    assert float(found["duration"]) == pytest.approx(57 / 30, abs=0.002)
    assert found["nb_read_frames"] == "57"
    assert found["color_range"] == "tv"
    assert {found["color_space"], found["color_transfer"], found["color_primaries"]} == {"bt709"}


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_flat_colors_come_back_within_three_levels(tmp_path: Path, codec: str) -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40), (30, 90, 160)]
    writer = ClipWriter(tmp_path, "flat", replace(SETTINGS, codec=codec, crf=8), start_step=0, frame_stride=1)
    for number, color in enumerate(colors):
        pixels = np.empty((64, 64, 3), dtype=np.uint8)
        pixels[:] = color
        writer.write(pixels, step=number, pts=number)
    writer.close()
    shown = [pixels[32, 32].astype(int) for _, pixels in decode_frames(tmp_path / "flat.mp4")]
    assert np.abs(np.array(shown) - np.array(colors)).max() <= 3


def test_the_array_is_the_callers_again_after_the_call(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path, "clip", SETTINGS, start_step=0, frame_stride=1)
    pixels = picture(0)
    for number in range(20):
        pixels[:] = picture(number)
        writer.write(pixels, step=number, pts=number)
        pixels[:] = 0
    writer.close()
    assert [number_in(shown) for _, shown in decode_frames(tmp_path / "clip.mp4")] == list(range(20))


def test_read_only_and_strided_arrays_are_taken(tmp_path: Path) -> None:
    frozen = picture(5)
    frozen.flags.writeable = False
    strided = np.repeat(np.repeat(picture(6), 2, axis=0), 2, axis=1)[::2, ::2]
    flipped = np.ascontiguousarray(picture(7)[:, ::-1])[:, ::-1]
    writer = ClipWriter(tmp_path, "clip", SETTINGS, start_step=0, frame_stride=1)
    for number, pixels in enumerate((frozen, strided, flipped)):
        writer.write(pixels, step=number, pts=number)
    writer.close()
    assert [number_in(shown) for _, shown in decode_frames(tmp_path / "clip.mp4")] == [5, 6, 7]


def test_odd_sides_are_padded_with_the_edge(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path, "odd", SETTINGS, start_step=0, frame_stride=1)
    writer.write(np.full((47, 63, 3), (10, 200, 90), dtype=np.uint8), step=0, pts=0)
    assert (writer.size, writer.padded, writer.codec) == ((64, 48), True, "libx264")
    writer.close()
    ((_, pixels),) = decode_frames(tmp_path / "odd.mp4")
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels.astype(int) - (10, 200, 90)).max() <= 4


def test_a_frame_of_another_size_opens_another_segment(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path, "clip", SETTINGS, start_step=0, frame_stride=1)
    assert writer.write(picture(0), step=0, pts=0) == ()
    (first,) = writer.write(picture(4, width=128), step=4, pts=4)
    (second,) = writer.close()
    assert (first.file, second.file) == ("clip.000.mp4", "clip.001.mp4")
    assert first.duration_s == pytest.approx(4 / 30)
    assert second.first_step == 4
    assert [pixels.shape for _, pixels in decode_frames(tmp_path / "clip.001.mp4")] == [(64, 128, 3)]


def test_segment_bytes_bounds_a_segment(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    encode = replace(SETTINGS, segment_bytes=60_000)
    writer = ClipWriter(tmp_path, "noise", encode, start_step=0, frame_stride=1)
    for number in range(30):
        writer.write(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8), step=number, pts=number)
    writer.close()
    assert len(writer.segments) > 2
    assert all(60_000 <= segment.nbytes < 80_000 for segment in writer.segments[:-1])
    steps = [step for segment in writer.segments for step, _ in decode_frames(tmp_path / segment.file)]
    assert steps == list(range(30))


@settings(max_examples=30, deadline=None)
@given(
    kept=st.sets(st.integers(0, 70), min_size=1, max_size=40),
    stride=st.integers(1, 5),
    start_step=st.integers(-1, 1000),
    segment_frames=st.none() | st.integers(1, 30),
    fps=st.sampled_from([Fraction(30), Fraction(25), Fraction(30000, 1001), Fraction(50, 3), Fraction(1, 3)]),
    tail=st.integers(0, 10),
)
def test_steps_are_recovered_and_spans_join_under_any_loss(
    kept: set[int], stride: int, start_step: int, segment_frames: int | None, fps: Fraction, tail: int
) -> None:
    segment_s = None if segment_frames is None else float(segment_frames / fps)
    encode = replace(SETTINGS, fps=fps, segment_s=segment_s, gop_s=float(12 / fps))
    pts = sorted(kept)
    end_pts = pts[-1] + 1 + tail
    with TemporaryDirectory() as folder:
        segments = write(Path(folder), pts, encode=encode, start_step=start_step, stride=stride, end_pts=end_pts)
        shown = [[step for step, _ in decode_frames(Path(folder, segment.file))] for segment in segments]
        assert sorted(os.listdir(folder)) == sorted(segment.file for segment in segments)
    assert [step for steps in shown for step in steps] == [start_step + number * stride for number in pts]
    for segment, steps in zip(segments, shown, strict=True):
        assert (segment.first_step, segment.last_step, segment.frames) == (steps[0], steps[-1], len(steps))
    assert sum(segment.duration_s for segment in segments) == pytest.approx(float(end_pts / fps))
    if len(segments) == 1:
        assert segments[0].file == "clip.mp4"
    else:
        assert [segment.file for segment in segments] == [f"clip.{i:03d}.mp4" for i in range(len(segments))]


def test_keyframes_are_bounded_by_video_time_where_frames_are_missing(tmp_path: Path) -> None:
    write(tmp_path, range(0, 90, 5))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        times = [
            float((packet.pts or 0) * stream.time_base * 30)
            for packet in container.demux(stream)
            if packet.size and packet.is_keyframe
        ]
    assert max(np.diff(times)) <= 15


def test_a_growing_segment_can_be_played_and_tells_its_steps(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path, "clip", SETTINGS, start_step=50, frame_stride=2)
    for pts in range(4, 64):
        writer.write(picture(50 + 2 * pts), step=50 + 2 * pts, pts=pts)
    assert writer.open_segment == "clip.000.mp4.part"
    steps = [step for step, _ in decode_frames(tmp_path / "clip.000.mp4.part")]
    assert steps == [50 + 2 * pts for pts in range(4, 4 + len(steps))]
    assert len(steps) >= 60 - SETTINGS.gop_s * SETTINGS.fps
    writer.abandon()
    assert [step for step, _ in decode_frames(tmp_path / "clip.000.mp4.part")] == steps


def test_a_later_writer_goes_on_with_the_next_index(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path, "clip", SETTINGS, start_step=0, frame_stride=2, first_index=3)
    writer.write(picture(80), step=80, pts=40)
    (segment,) = writer.close(50)
    assert (segment.file, segment.first_step) == ("clip.003.mp4", 80)
    assert segment.duration_s == pytest.approx(10 / 30)
    assert [step for step, _ in decode_frames(tmp_path / segment.file)] == [80]


@pytest.mark.parametrize("name", ["clip.000.mp4.part", "clip.mp4"])
def test_no_file_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(EncodeError, match="exists"):
        write(tmp_path, range(3))
    assert (tmp_path / name).read_text() == "mine"


def test_closing_without_a_frame_leaves_nothing(tmp_path: Path) -> None:
    assert write(tmp_path, []) == []
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((0, 4, 3), dtype=np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    writer = ClipWriter(tmp_path, "clip", SETTINGS, start_step=0, frame_stride=1)
    with pytest.raises(EncodeError, match=r"uint8 \[height, width, 3\]"):
        writer.write(pixels, step=0, pts=0)
    assert os.listdir(tmp_path) == []


def test_time_only_goes_forward(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path, "clip", SETTINGS, start_step=10, frame_stride=2)
    writer.write(picture(1), step=12, pts=1)
    with pytest.raises(ValueError, match="pts"):
        writer.write(picture(1), step=12, pts=1)
    with pytest.raises(ValueError, match="step"):
        writer.write(picture(1), step=13, pts=2)
    writer.close()


def test_a_folder_that_is_gone_is_an_encode_error(tmp_path: Path) -> None:
    with pytest.raises(EncodeError) as caught:
        write(tmp_path / "gone", range(3))
    assert caught.value.cause is DropCause.ENCODE_FAILED


FILL_THE_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from stepreel.encoders.segment_writer import ClipWriter
from stepreel.errors import EncodeError
from stepreel.config import EncodeSettings
from fractions import Fraction

settings = EncodeSettings(codec="libx264", preset="ultrafast", crf=18, pix_fmt="yuv420p", gop_s=0.5,
                          segment_s=None, segment_bytes=None, fps=Fraction(30))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
rng = np.random.default_rng(0)
writer = ClipWriter(Path(sys.argv[1]), "clip", settings, start_step=0, frame_stride=1)
try:
    for pts in range(1000):
        writer.write(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8), step=pts, pts=pts)
except EncodeError as exc:
    writer.abandon()
    print(exc.cause, type(exc.__cause__).__name__, exc)
"""


def test_a_full_disk_is_told_apart(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILL_THE_DISK, str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.startswith("disk_full OSError")
    assert os.strerror(errno.EFBIG) in done.stdout
    steps = [step for step, _ in decode_frames(tmp_path / "clip.000.mp4.part")]
    assert steps == list(range(len(steps)))
    assert steps


def test_a_segment_closed_by_a_failed_call_is_not_forgotten(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path, "clip", SETTINGS, start_step=0, frame_stride=1)
    writer.write(picture(0), step=0, pts=0)
    (tmp_path / "clip.001.mp4.part").touch()
    with pytest.raises(EncodeError, match=r"001"):
        writer.write(picture(1, width=128), step=1, pts=1)
    assert [segment.file for segment in writer.segments] == ["clip.000.mp4"]


@pytest.mark.parametrize(
    "comment",
    [
        None,
        "",
        "made by somebody else",
        "[]",
        '{"stepreel": 2}',
        '{"stepreel": 1, "clip": "a", "start_step": 1.5, "frame_stride": 1, "fps": "30"}',
        '{"stepreel": 1, "clip": "a", "start_step": 1, "frame_stride": 0, "fps": "30"}',
        '{"stepreel": 1, "clip": "a", "start_step": 1, "frame_stride": 1, "fps": "1/0"}',
        "[" * 100_000,
    ],
)
def test_a_comment_of_another_kind_is_no_label(comment: str | None) -> None:
    assert SegmentLabel.from_comment(comment) is None


def test_a_label_comes_back_from_its_comment() -> None:
    label = SegmentLabel(clip="a", start_step=-1, frame_stride=4, fps=Fraction(30000, 1001))
    assert SegmentLabel.from_comment(label.to_comment()) == label


def cause_of_end(writer: ClipWriter, numbers: Iterable[int]) -> DropCause | None:
    """Write frames until one is refused, and return why."""
    try:
        for pts in numbers:
            writer.write(picture(pts), step=pts, pts=pts)
    except EncodeError as exc:
        return exc.cause
    return None


def room_in(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


@pytest.mark.parametrize("frame_count", [1, 2])
def test_an_open_segment_can_be_let_go_of_after_any_frame(tmp_path: Path, frame_count: int) -> None:
    writer = ClipWriter(tmp_path, "clip", SETTINGS, start_step=0, frame_stride=1)
    for pts in range(frame_count):
        writer.write(picture(pts), step=pts, pts=pts)
    writer.abandon()
    assert os.listdir(tmp_path) == ["clip.000.mp4.part"]


def test_nothing_is_recorded_where_less_room_is_left_than_asked_for(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path, "clip", SETTINGS, start_step=0, frame_stride=1, min_free_bytes=2**62)
    with pytest.raises(EncodeError, match=f"fewer than min_free_bytes={2**62}; make room") as caught:
        writer.write(picture(0), step=0, pts=0)
    assert caught.value.cause is DropCause.DISK_FULL
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_closes_the_segment_and_the_next_clip_is_recorded_once_there_is_room(
    tmp_path: Path,
) -> None:
    margin = 512 * 2**20
    if room_in(tmp_path) < 4 * margin:
        pytest.skip("needs a disk with 2 GiB left, to take some of it")
    floor = room_in(tmp_path) - margin
    writer = ClipWriter(tmp_path, "clip", SETTINGS, start_step=0, frame_stride=1, min_free_bytes=floor)
    for pts in range(20):
        writer.write(picture(pts), step=pts, pts=pts)
    with open(tmp_path / "checkpoint", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2 * margin)
    assert cause_of_end(writer, range(20, 60)) is DropCause.DISK_FULL
    (segment,) = writer.segments
    assert segment.file == "clip.mp4"
    steps = [step for step, _ in decode_frames(tmp_path / segment.file)]
    assert steps == list(range(segment.frames))
    assert 20 <= segment.frames <= 20 + SETTINGS.gop_frames
    assert writer.open_segment is None
    (tmp_path / "checkpoint").unlink()
    (after,) = write(tmp_path, range(5), name="next")
    assert after.frames == 5
    assert not list(tmp_path.glob("*.part"))
