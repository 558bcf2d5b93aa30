"""Clips of a run that was killed with everything of it: `stepreel recover` draws what they lack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from stepreel import BackendError, Clip, ClipState, DropCause, FrameCounts, Recorder, RecorderConfig
from stepreel.backends import archives
from stepreel.backends.synthetic import SyntheticBackend, SyntheticRenderer, read_step
from stepreel.cli import main
from stepreel.encoders.segment_writer import ClipWriter
from stepreel.storage.inspection import decode_frames, inspect
from stepreel.storage.manifest import read_manifest, write_manifest
from stepreel.storage.snapshot_file import SnapshotReader, archive_members
from stepreel.storage.snapshot_format import SnapshotsAbout
from stepreel.storage.snapshot_writer import SnapshotWriter

from .recordings import check_clip
from .storage.leftovers import SETTINGS, contents

NAME = "run-step-0"
STRIDE = 2
ENCODE = replace(SETTINGS, segment_s=None, fps=Fraction(30))
ENCODING = {"codec": "libx264", "preset": "ultrafast", "crf": 30, "pix_fmt": "yuv420p", "gop_s": 1 / 3}


def leave_killed(
    folder: Path,
    *,
    drawn: Iterable[int],
    kept: Iterable[int],
    closed: Iterable[int] = (),
    end_step: int | None = None,
) -> None:
    """Leave a clip of every second step: some in a closed segment, some in an open one, snapshots of some beside it."""
    renderer = SyntheticRenderer(width=320, height=180)
    renderer.open()
    writer = ClipWriter(folder, NAME, replace(ENCODE, segment_s=1.0), start_step=0, frame_stride=STRIDE)
    for pts in (*closed, *drawn):
        picture = renderer.render(np.frombuffer((pts * STRIDE).to_bytes(8, "little"), np.uint8))
        writer.write(picture, step=pts * STRIDE, pts=pts)
    opened = writer.open_segment
    writer.abandon()
    archive = renderer.to_archive()
    about = SnapshotsAbout(
        clip=NAME,
        start_step=0,
        frame_stride=STRIDE,
        fps=30.0,
        encoding=ENCODING,
        kind=archive.kind,
        settings=archive.settings,
    )
    snapshots = SnapshotWriter(folder, about, archive_members(archive))
    for pts in kept:
        snapshots.append(pts * STRIDE, (pts * STRIDE).to_bytes(8, "little"))
    snapshots.flush()
    snapshots.abandon()
    clip = Clip(
        name=NAME,
        stream="default",
        backend="synthetic",
        state=ClipState.RECORDING,
        start_step=0,
        end_step=end_step,
        frame_stride=STRIDE,
        fps=30.0,
        width=320,
        height=180,
        codec="libx264",
        frames=FrameCounts(),
        missing_steps=(),
        segments=writer.segments,
        open_segment=opened,
    )
    write_manifest(folder, clip)


def recover(folder: Path, *flags: str) -> Result:
    result = CliRunner().invoke(main, ["recover", str(folder), *flags])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def manifest_of(folder: Path) -> Clip:
    return read_manifest(folder / f"{NAME}.json")


def check_every_step(folder: Path, count: int) -> Clip:
    clip = manifest_of(folder)
    shown = [(step, read_step(pixels)) for step, pixels in decode_frames(folder / f"{NAME}.json")]
    assert shown == [(pts * STRIDE, pts * STRIDE) for pts in range(count)]
    assert (clip.frames.requested, clip.frames.encoded, clip.frames.dropped) == (count, count, {})
    assert clip.missing_steps == ()
    check_clip(folder, clip)
    assert inspect(folder).differences == ()
    return clip


@pytest.mark.parametrize("drawn", [0, 1, 25, 38])
@pytest.mark.parametrize("closed", [0, 30])
def test_every_step_whose_snapshot_was_kept_is_in_a_file(output_dir: Path, closed: int, drawn: int) -> None:
    output_dir.mkdir(exist_ok=True)
    leave_killed(output_dir, closed=range(closed), drawn=range(closed, closed + drawn), kept=range(70))
    result = recover(output_dir)
    assert result.exit_code == 3, "it was cut short: what came after its last snapshot is not known"
    clip = check_every_step(output_dir, 70)
    assert (clip.state, clip.snapshots, clip.ended) == (ClipState.RECOVERED, None, "killed after step 138")
    assert not [*output_dir.glob("*.npz*"), *output_dir.glob("*.part")]
    before = contents(output_dir)
    assert recover(output_dir).exit_code == 0
    assert contents(output_dir) == before


def test_frames_over_which_the_last_one_of_an_open_segment_lasted_are_drawn_too(output_dir: Path) -> None:
    output_dir.mkdir(exist_ok=True)
    # The fragment that ends with step 32 was finished by a frame 9 frames later, which was lost with its own fragment.
    leave_killed(output_dir, drawn=[*range(17), *range(26, 30)], kept=range(60), end_step=118)
    result = recover(output_dir)
    assert result.exit_code == 0, result.output
    clip = check_every_step(output_dir, 60)
    assert clip.segments[0].last_step == 32
    assert clip.state is ClipState.RECOVERED
    assert "frames drawn from its snapshots: 43" in result.stdout


def test_what_was_drawn_needs_no_snapshot(output_dir: Path) -> None:
    output_dir.mkdir(exist_ok=True)
    leave_killed(output_dir, drawn=range(25), kept=range(9, 40))
    recover(output_dir)
    check_every_step(output_dir, 40)


def test_no_draw_leaves_the_snapshots_for_later(output_dir: Path) -> None:
    output_dir.mkdir(exist_ok=True)
    leave_killed(output_dir, drawn=range(25), kept=range(70))
    assert recover(output_dir, "--no-draw").exit_code == 3
    clip = manifest_of(output_dir)
    assert clip.snapshots
    assert clip.snapshots.frames == 70
    assert clip.frames.dropped[DropCause.NOT_RENDERED] > 40
    assert recover(output_dir).exit_code == 3
    check_every_step(output_dir, 70)


def test_a_snapshot_between_frames_of_a_closed_segment_stays(output_dir: Path) -> None:
    output_dir.mkdir(exist_ok=True)
    leave_killed(output_dir, drawn=[*range(5), *range(6, 25)], kept=range(40))
    result = recover(output_dir)
    assert result.exit_code == 3
    assert "1 snapshots are of steps between frames of a closed segment" in result.stderr
    clip = manifest_of(output_dir)
    assert clip.missing_steps == ((10, 10),)
    assert clip.snapshots
    with SnapshotReader(output_dir / clip.snapshots.file) as reader:
        assert 10 in reader.steps
    again = recover(output_dir)
    assert (again.exit_code, again.stderr) == (0, ""), "it was said, and is no news"


class WithoutDisplay(SyntheticRenderer):
    def open(self) -> None:
        raise self.problem

    problem: Exception = BackendError("there is no display")


@pytest.mark.parametrize("problem", [BackendError("there is no display"), OSError("libEGL.so"), "no module"])
def test_what_can_not_be_drawn_here_is_not_lost(
    output_dir: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception | str
) -> None:
    output_dir.mkdir(exist_ok=True)
    leave_killed(output_dir, drawn=range(25), kept=range(70))
    with monkeypatch.context() as patch:
        if isinstance(problem, str):
            patch.setitem(archives.MAKERS, "synthetic", ".not_installed")
        else:
            patch.setattr(SyntheticRenderer, "open", WithoutDisplay.open)
            patch.setattr(SyntheticRenderer, "problem", problem, raising=False)
        result = recover(output_dir)
        again = recover(output_dir)
    for one in (result, again):
        assert one.exit_code == 3
        (line,) = one.stderr.splitlines()
        assert line.startswith(f"{NAME}: its snapshots can't be drawn here: ")
        assert f"stepreel render {output_dir}" in line
    clip = manifest_of(output_dir)
    assert clip.snapshots
    assert (clip.snapshots.frames, clip.frames.requested) == (70, 70)
    rendered = CliRunner().invoke(main, ["render", str(output_dir)])
    assert rendered.exit_code == 0, rendered.output
    check_every_step(output_dir, 70)


def test_snapshots_that_a_run_kept_on_purpose_stay(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=0, render="later")  # type: ignore[arg-type]
    with Recorder(config, SyntheticBackend(snapshot=True)) as recorder:
        for _ in range(20):
            recorder.step()
    result = recover(output_dir)
    assert result.exit_code == 0, result.output
    (clip,) = inspect(output_dir).clips
    assert clip.state is ClipState.COMPLETE
    assert clip.snapshots
    before = contents(output_dir)
    assert recover(output_dir).exit_code == 0
    assert contents(output_dir) == before
