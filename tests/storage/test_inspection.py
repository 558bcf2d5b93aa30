from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stepreel.clip import Clip, ClipState, DropCause, FrameCounts, Segment
from stepreel.encoders.codecs import EncodeSettings
from stepreel.encoders.segment_writer import ClipWriter
from stepreel.errors import OutputError
from stepreel.storage.inspection import decode_frames, inspect
from stepreel.storage.manifest import write_manifest
from stepreel.storage.recovery import recover

SETTINGS = EncodeSettings(
    codec="libx264",
    preset="ultrafast",
    crf=23,
    pix_fmt="yuv420p",
    gop_s=0.5,
    segment_s=1.0,
    segment_bytes=None,
    fps=Fraction(30),
)
MISSING = (6, 14, 16, 40, 118)
"""Steps that are not there: at the border of two segments, in the middle, and the last one."""


def record(folder: Path, *, name: str = "run-step-0", missing: tuple[int, ...] = (), close: bool = True) -> Clip:
    """Record steps 0 to 118 by two, in two segments, and write the manifest."""
    writer = ClipWriter(folder, name, SETTINGS, start_step=0, frame_stride=2)
    for step in range(0, 120, 2):
        pixels = np.full((48, 64, 3), 60 + step, dtype=np.uint8)
        if step not in missing:
            writer.write(pixels, step=step, pts=step // 2)
    if close:
        writer.close(60)
    open_segment = writer.open_segment
    writer.abandon()
    return save(folder, name, writer.segments, missing, open_segment)


def save(
    folder: Path,
    name: str,
    segments: tuple[Segment, ...],
    missing: tuple[int, ...] = (),
    open_segment: str | None = None,
) -> Clip:
    state = ClipState.INCOMPLETE if missing else ClipState.COMPLETE
    encoded = sum(segment.frames for segment in segments)
    clip = Clip(
        name=name,
        stream="default",
        backend="synthetic",
        state=state if open_segment is None else ClipState.RECORDING,
        start_step=0,
        end_step=118 if open_segment is None else None,
        frame_stride=2,
        fps=30.0,
        width=64,
        height=48,
        codec="libx264",
        frames=FrameCounts(
            requested=encoded + len(missing), encoded=encoded, dropped={DropCause.QUEUE_FULL: len(missing)}
        ),
        missing_steps=tuple((step, step) for step in missing),
        segments=segments,
        open_segment=open_segment,
    )
    write_manifest(folder, clip)
    return clip


def test_a_clip_that_is_as_its_manifest_says_has_no_differences(tmp_path: Path) -> None:
    clip = record(tmp_path)
    inspection = inspect(tmp_path / "run-step-0.json")
    assert (inspection.differences, inspection.notes) == ((), ())
    assert inspection.clips == (replace(clip, frames=replace(clip.frames, dropped={})),)


def test_dropped_frames_are_no_difference_where_they_are_listed(tmp_path: Path) -> None:
    record(tmp_path, missing=MISSING)
    inspection = inspect(tmp_path / "run-step-0.json")
    assert inspection.differences == ()


@pytest.mark.parametrize("entry", ["run-step-0.json", "run-step-0.000.mp4", "run-step-0.001.mp4", "."])
def test_a_clip_is_found_by_its_manifest_its_segments_and_its_folder(tmp_path: Path, entry: str) -> None:
    record(tmp_path)
    inspection = inspect(tmp_path / entry)
    assert [clip.name for clip in inspection.clips] == ["run-step-0"]
    assert inspection.differences == ()


def alter(folder: Path, *place: str | int, to: Any) -> None:
    path = folder / "run-step-0.json"
    data = json.loads(path.read_bytes())
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = to
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("place", "value", "found"),
    [
        (("segments", 0, "frames"), 29, "frames: manifest says 29, found 26"),
        (("segments", 0, "first_step"), 2, "first_step: manifest says 2, found 0"),
        (("segments", 1, "last_step"), 118, "last_step: manifest says 118, found 116"),
        (("segments", 0, "bytes"), 7, "nbytes: manifest says 7"),
        (("segments", 0, "duration_s"), 0.9, "duration_s: manifest says 0.9, found 1.0"),
        (("width",), 640, "size: manifest says (640, 48), found (64, 48)"),
        (("fps",), 25, "fps: manifest says 25.0, found 30.0"),
        (("frame_stride",), 1, "frame_stride: manifest says 1, found 2"),
        (("start_step",), -2, "start_step of the first segment: manifest says -2, found 0"),
        (("end_step",), 116, "1 steps are not on the clip's grid, the first is 118"),
        (("end_step",), 110, "a segment ends before step 120, the clip ends at 112"),
        (("frames", "encoded"), 60, "encoded: manifest says 60, found 55"),
        (("frames", "requested"), 61, "requested = encoded + dropped: manifest says 61, found 60"),
        (("frames", "dropped"), {"queue_full": 4}, "dropped frames and missing steps: manifest says 4, found 5"),
        (("frames", "missing_steps"), [[6, 6], [14, 16], [40, 40], [50, 50]], "called missing and are there"),
        (("frames", "missing_steps"), [[6, 6], [14, 16], [40, 40]], "1 steps are neither there nor called missing"),
        (("frames", "missing_steps"), [[0, 2**50]], "can't have more than"),
        (("frames", "missing_by_cause"), {"queue_full": [[6, 6], [14, 16]], "closed": [[40, 40]]}, "found 3"),
        (
            ("frames", "missing_by_cause"),
            {"queue_full": [[6, 6], [14, 16], [40, 42]], "closed": []},
            "the missing steps by cause are not those that are missing",
        ),
        (("frames", "missing_by_cause"), {"queue_full": [[0, 2**50]], "closed": []}, "can't have more than"),
        (("state",), "complete", "the manifest says complete, and 5 frames were dropped"),
    ],
)
def test_every_lie_of_a_manifest_is_a_difference(
    tmp_path: Path, place: tuple[str | int, ...], value: object, found: str
) -> None:
    record(tmp_path, missing=MISSING)
    alter(tmp_path, *place, to=value)
    differences = inspect(tmp_path / "run-step-0.json").differences
    assert any(found in line for line in differences), differences
    assert all(len(line.splitlines()) == 1 for line in differences)


def test_a_segment_that_is_gone_is_a_difference(tmp_path: Path) -> None:
    record(tmp_path)
    (tmp_path / "run-step-0.001.mp4").unlink()
    assert any("run-step-0.001.mp4 can't be played" in line for line in inspect(tmp_path).differences)


def test_a_segment_that_can_not_be_decoded_is_a_difference(tmp_path: Path) -> None:
    record(tmp_path)
    path = tmp_path / "run-step-0.000.mp4"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert any("run-step-0.000.mp4" in line for line in inspect(tmp_path).differences)


def test_a_segment_of_another_clip_is_a_difference(tmp_path: Path) -> None:
    record(tmp_path)
    record(tmp_path, name="other-step-0")
    (tmp_path / "other-step-0.001.mp4").replace(tmp_path / "run-step-0.001.mp4")
    differences = inspect(tmp_path / "run-step-0.json").differences
    assert any("clip: manifest says run-step-0, found other-step-0" in line for line in differences)


def test_segments_in_the_wrong_order_are_a_difference(tmp_path: Path) -> None:
    clip = record(tmp_path)
    write_manifest(tmp_path, replace(clip, segments=clip.segments[::-1]))
    differences = inspect(tmp_path / "run-step-0.json").differences
    assert any("twice or out of order" in line for line in differences)


def test_a_hole_between_segments_is_a_difference_unless_frames_were_dropped(tmp_path: Path) -> None:
    clip = record(tmp_path)
    write_manifest(tmp_path, replace(clip, segments=clip.segments[:1]))
    assert any("the clip ends at 120" in line for line in inspect(tmp_path / "run-step-0.json").differences)


def test_a_clip_that_lost_its_first_segment_may_begin_with_a_later_one(tmp_path: Path) -> None:
    clip = record(tmp_path)
    lost, rest = clip.segments
    (tmp_path / lost.file).unlink()
    frames = FrameCounts(requested=60, encoded=rest.frames, dropped={DropCause.WORKER_LOST: lost.frames})
    missing = ((lost.first_step, lost.last_step),)
    write_manifest(
        tmp_path,
        replace(clip, segments=(rest,), frames=frames, missing_steps=missing, state=ClipState.INCOMPLETE),
    )
    assert inspect(tmp_path / "run-step-0.json").differences == ()


def test_files_of_a_clip_that_no_manifest_lists_are_a_difference(tmp_path: Path) -> None:
    record(tmp_path)
    (tmp_path / "run-step-0.002.mp4.part").write_bytes((tmp_path / "run-step-0.001.mp4").read_bytes())
    record(tmp_path, name="other-step-0")
    (tmp_path / "other-step-0.json").unlink()
    differences = inspect(tmp_path).differences
    assert any("run-step-0.002.mp4.part is there and not in the manifest" in line for line in differences)
    assert any("other-step-0.000.mp4: no manifest of other-step-0 lists it" in line for line in differences)


def test_a_damaged_manifest_is_a_difference_where_it_has_segments(tmp_path: Path) -> None:
    record(tmp_path)
    (tmp_path / "run-step-0.json").write_text('{"schema": 1')
    inspection = inspect(tmp_path)
    assert inspection.clips == ()
    assert ["no JSON" in line for line in inspection.differences] == [True]


def test_a_video_of_an_unknown_kind_is_told(tmp_path: Path) -> None:
    record(tmp_path)
    path = min(tmp_path.glob("*.mp4"))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    (line,) = [line for line in inspect(tmp_path).differences if "can't be played" in line]
    assert line.endswith("its video is of no kind that can be decoded")
    with pytest.raises(OutputError, match="no kind that can be decoded"):
        list(decode_frames(path))
    assert recover(tmp_path).repaired == ()


def test_files_of_others_are_no_difference(tmp_path: Path) -> None:
    record(tmp_path)
    (tmp_path / "session.json").write_text("{}")
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "broken.mp4").write_text("")
    with av.open(str(tmp_path / "theirs.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    inspection = inspect(tmp_path)
    assert [clip.name for clip in inspection.clips] == ["run-step-0"]
    assert inspection.differences == ()


def test_a_clip_that_is_being_recorded_is_noted(tmp_path: Path) -> None:
    record(tmp_path, close=False)
    inspection = inspect(tmp_path / "run-step-0.json")
    assert inspection.differences == ()
    (note,) = inspection.notes
    assert "run-step-0.001.mp4.part can be played from step 60 to" in note


def test_a_segment_left_open_in_a_closed_clip_is_a_difference(tmp_path: Path) -> None:
    record(tmp_path, close=False)
    alter(tmp_path, "state", to="complete")
    assert any("was left open" in line for line in inspect(tmp_path).differences)


def test_black_and_frozen_pictures_are_noted(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path, "run-step-0", SETTINGS, start_step=0, frame_stride=1)
    for step in range(10):
        writer.write(np.full((48, 64, 3), 0 if step < 3 else 90, dtype=np.uint8), step=step, pts=step)
    (segment,) = writer.close()
    inspection = inspect(tmp_path / segment.file)
    assert inspection.differences == ()
    assert any("3 of 10 frames are black, the first at step 0" in note for note in inspection.notes)
    assert any("frames are equal to the one before, the first at step 1" in note for note in inspection.notes)


def test_a_file_alone_tells_its_clip(tmp_path: Path) -> None:
    record(tmp_path, missing=(2, 4))
    (tmp_path / "run-step-0.json").unlink()
    inspection = inspect(tmp_path / "run-step-0.000.mp4")
    (clip,) = inspection.clips
    assert (clip.name, clip.start_step, clip.end_step, clip.frame_stride) == ("run-step-0", 0, 58, 2)
    assert clip.segments[0].frames == 28
    assert clip.state is ClipState.INCOMPLETE
    assert any("no manifest" in note for note in inspection.notes)


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="neither"):
        inspect(tmp_path / "gone")
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(OutputError, match="can't be played"):
        inspect(tmp_path / "text.mp4")
    with pytest.raises(OutputError, match="can't be played"):
        next(decode_frames(tmp_path / "gone.mp4"))


def test_an_empty_folder_has_no_clips(tmp_path: Path) -> None:
    assert inspect(tmp_path).clips == ()


def test_the_frames_of_a_manifest_are_those_of_its_segments(tmp_path: Path) -> None:
    record(tmp_path, missing=MISSING)
    steps = [step for step, _ in decode_frames(tmp_path / "run-step-0.json")]
    assert steps == [step for step in range(0, 120, 2) if step not in MISSING]
