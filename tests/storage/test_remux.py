from __future__ import annotations

import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import stepreel
from stepreel.encoders.codecs import EncodeSettings
from stepreel.encoders.segment_writer import ClipWriter
from stepreel.errors import EncodeError
from stepreel.storage.inspection import decode_frames
from stepreel.storage.remux import remux

SETTINGS = EncodeSettings(
    codec="libx264",
    preset="ultrafast",
    crf=23,
    pix_fmt="yuv420p",
    gop_s=1 / 3,
    segment_s=None,
    segment_bytes=None,
    fps=Fraction(30),
)
PART, FINAL = "clip.000.mp4.part", "clip.000.mp4"
FIRST_PTS, FRAME_COUNT, START_STEP, STRIDE = 5, 60, 100, 2
STEPS = [START_STEP + STRIDE * pts for pts in range(FIRST_PTS, FIRST_PTS + FRAME_COUNT)]


def picture(pts: int) -> NDArray[np.uint8]:
    pixels = np.full((48, 64, 3), 30, dtype=np.uint8)
    pixels[8:24, pts % 48 : pts % 48 + 16] = (200, 90, 10)
    return pixels


def open_writer(folder: Path) -> ClipWriter:
    writer = ClipWriter(folder, "clip", SETTINGS, start_step=START_STEP, frame_stride=STRIDE)
    for step in STEPS:
        pts = (step - START_STEP) // STRIDE
        writer.write(picture(pts), step=step, pts=pts)
    return writer


@pytest.fixture(scope="module")
def part_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An open segment, as a killed worker leaves it."""
    folder = tmp_path_factory.mktemp("part")
    writer = open_writer(folder)
    data = (folder / PART).read_bytes()
    writer.abandon()
    return data


@pytest.fixture(scope="module")
def closed_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same segment, closed and not yet renamed."""
    folder = tmp_path_factory.mktemp("closed")
    open_writer(folder).close(70)
    return (folder / "clip.mp4").read_bytes()


def steps_in(path: Path) -> list[int]:
    return [step for step, _ in decode_frames(path)]


def test_all_but_the_last_gop_is_kept(tmp_path: Path, part_bytes: bytes) -> None:
    (tmp_path / PART).write_bytes(part_bytes)
    segment = remux(tmp_path, PART, FINAL)
    assert segment is not None
    steps = steps_in(tmp_path / FINAL)
    assert steps == STEPS[: segment.frames]
    assert FRAME_COUNT - segment.frames <= SETTINGS.gop_s * SETTINGS.fps
    assert (segment.file, segment.first_step, segment.last_step) == (FINAL, steps[0], steps[-1])
    assert segment.duration_s == pytest.approx((FIRST_PTS + segment.frames) / 30)
    assert segment.nbytes == (tmp_path / FINAL).stat().st_size
    assert os.listdir(tmp_path) == [FINAL]


def test_what_is_kept_is_not_encoded_again(tmp_path: Path, part_bytes: bytes) -> None:
    (tmp_path / PART).write_bytes(part_bytes)
    before = [pixels for _, pixels in decode_frames(tmp_path / PART)]
    remux(tmp_path, PART, FINAL)
    after = [pixels for _, pixels in decode_frames(tmp_path / FINAL)]
    assert np.array_equal(before, after)


def test_the_repaired_file_is_an_ordinary_mp4(tmp_path: Path, part_bytes: bytes) -> None:
    (tmp_path / PART).write_bytes(part_bytes)
    segment = remux(tmp_path, PART, FINAL)
    assert segment is not None
    with av.open(str(tmp_path / FINAL)) as container:
        stream = container.streams.video[0]
        assert stream.frames == segment.frames  # A fragmented file tells those of its first fragment only.
        assert stream.codec_context.color_range == 1


def test_a_second_call_gives_the_same_answer(tmp_path: Path, part_bytes: bytes) -> None:
    (tmp_path / PART).write_bytes(part_bytes)
    assert remux(tmp_path, PART, FINAL) == remux(tmp_path, PART, FINAL) != None  # noqa: E711


def test_an_interrupted_call_is_taken_up_again(tmp_path: Path, part_bytes: bytes) -> None:
    (tmp_path / PART).write_bytes(part_bytes)
    (tmp_path / f"{PART}.draft").write_bytes(part_bytes[:100])
    first = remux(tmp_path, PART, FINAL)
    (tmp_path / PART).write_bytes(part_bytes)  # Killed between the new name and the removal of the part.
    assert remux(tmp_path, PART, FINAL) == first
    assert os.listdir(tmp_path) == [FINAL]


def test_a_segment_that_was_whole_keeps_every_frame(tmp_path: Path, closed_bytes: bytes) -> None:
    (tmp_path / PART).write_bytes(closed_bytes)
    segment = remux(tmp_path, PART, FINAL)
    assert segment is not None
    assert segment.frames == FRAME_COUNT
    assert segment.duration_s == pytest.approx(70 / 30)


@pytest.mark.parametrize("data", [b"", b"\0" * 500, b"not a video"])
def test_a_part_without_a_frame_is_removed(tmp_path: Path, data: bytes) -> None:
    (tmp_path / PART).write_bytes(data)
    assert remux(tmp_path, PART, FINAL) is None
    assert os.listdir(tmp_path) == []
    assert remux(tmp_path, PART, FINAL) is None


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1))
def test_a_part_cut_anywhere_keeps_its_complete_frames(
    tmp_path_factory: pytest.TempPathFactory, part_bytes: bytes, share: float
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    cut = int(share * len(part_bytes))
    (folder / PART).write_bytes(part_bytes[:cut])
    segment = remux(folder, PART, FINAL)
    if segment is None:
        assert os.listdir(folder) == []
        return
    assert steps_in(folder / FINAL) == STEPS[: segment.frames]
    assert os.listdir(folder) == [FINAL]


def test_more_of_a_part_never_gives_fewer_frames(tmp_path: Path, part_bytes: bytes) -> None:
    kept = []
    for cut in range(0, len(part_bytes), 97):
        (tmp_path / PART).write_bytes(part_bytes[:cut])
        segment = remux(tmp_path, PART, FINAL)
        kept.append(segment.frames if segment else 0)
        (tmp_path / FINAL).unlink(missing_ok=True)
    assert kept == sorted(kept)
    assert kept[-1] >= FRAME_COUNT - 2 * SETTINGS.gop_s * SETTINGS.fps


def test_the_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "theirs.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    (tmp_path / "theirs.mp4").rename(tmp_path / PART)
    with pytest.raises(EncodeError, match="did not write it"):
        remux(tmp_path, PART, FINAL)
    assert os.listdir(tmp_path) == [PART]


def test_a_name_taken_by_another_file_is_not_overwritten(tmp_path: Path, part_bytes: bytes) -> None:
    (tmp_path / PART).write_bytes(part_bytes)
    (tmp_path / FINAL).write_bytes(b"mine")
    with pytest.raises(EncodeError, match="move it away"):
        remux(tmp_path, PART, FINAL)
    assert (tmp_path / FINAL).read_bytes() == b"mine"
    assert (tmp_path / PART).read_bytes() == part_bytes


KILLED = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from stepreel.encoders.codecs import EncodeSettings
from stepreel.encoders.segment_writer import ClipWriter

settings = EncodeSettings(codec="libx264", preset="ultrafast", crf=23, pix_fmt="yuv420p", gop_s=1.0,
                          segment_s=2.0, segment_bytes=None, fps=Fraction(30))
writer = ClipWriter(Path(sys.argv[1]), "clip", settings, start_step=0, frame_stride=1)
pixels = np.zeros((48, 64, 3), dtype=np.uint8)
for pts in range(100_000):
    pixels[:] = pts % 200
    writer.write(pixels, step=pts, pts=pts)
    print(pts, flush=True)
"""


@pytest.mark.parametrize("lines", [20, 45, 75, 130, 178])
def test_a_killed_worker_costs_at_most_a_second(tmp_path: Path, lines: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(stepreel.__file__).parent.parent)}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        written = [int(worker.stdout.readline()) for _ in range(lines)][-1]
        os.kill(worker.pid, signal.SIGKILL)
        rest = worker.stdout.read().split()
    written = int(rest[-1]) if rest else written
    steps = []
    for file in sorted(os.listdir(tmp_path)):
        final = file.removesuffix(".part")
        if file == final or remux(tmp_path, file, final):
            steps += steps_in(tmp_path / final)
    assert steps == list(range(len(steps)))
    assert written + 1 - len(steps) <= 30
    assert not [file for file in os.listdir(tmp_path) if not file.endswith(".mp4")]


def test_a_link_in_the_place_of_a_file_is_neither_followed_nor_replaced(tmp_path: Path, part_bytes: bytes) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / PART).write_bytes(part_bytes)
    (outside / "draft").write_bytes(b"somebody's")
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / PART).write_bytes(part_bytes)
    (folder / FINAL).symlink_to(outside / "nowhere")
    with pytest.raises(EncodeError, match="links are not followed"):
        remux(folder, PART, FINAL)
    assert (folder / FINAL).is_symlink()
    (folder / FINAL).unlink()
    (folder / f"{PART}.draft").symlink_to(outside / "draft")
    assert remux(folder, PART, FINAL)
    (folder / PART).symlink_to(outside / PART)
    with pytest.raises(EncodeError, match="links are not followed"):
        remux(folder, PART, "other.mp4")
    assert (outside / PART).read_bytes() == part_bytes
    assert (outside / "draft").read_bytes() == b"somebody's"
    assert sorted(os.listdir(folder)) == sorted([FINAL, PART])
