"""Snapshots kept in a file, and drawn afterwards."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from stepreel import BackendError, Clip, ClipState, ConfigurationError, DropCause, OutputError, Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend, SyntheticRenderer
from stepreel.cli import main
from stepreel.interfaces import CaptureFormat
from stepreel.rendering import RenderOptions, clips_to_render, render_clip
from stepreel.storage.inspection import inspect
from stepreel.storage.manifest import read_manifest
from stepreel.storage.recovery import recover
from stepreel.storage.snapshot_file import SnapshotReader

from .recordings import check_clip, kill_everything, poll_until, shown_steps, workers_of


def record(config: RecorderConfig, backend: SyntheticBackend, steps: int) -> tuple[Clip, ...]:
    with Recorder(config, backend) as recorder:
        for _ in range(steps):
            recorder.step()
    return recorder.summary().clips


def later(output_dir: Path, **settings: int) -> RecorderConfig:
    return RecorderConfig(output_dir=output_dir, video_length=20, video_interval=0, render="later", **settings)  # type: ignore[arg-type]


def test_a_clip_kept_for_later_has_every_snapshot_and_starts_no_worker(output_dir: Path) -> None:
    with Recorder(later(output_dir, frame_stride=2), SyntheticBackend(snapshot=True)) as recorder:
        assert not workers_of()
        for _ in range(20):
            recorder.step()
    (clip,) = recorder.summary().clips
    assert clip.state is ClipState.UNRENDERED
    assert clip.frames.dropped == {DropCause.NOT_RENDERED: 10}
    assert clip.snapshots
    assert (clip.snapshots.file, clip.snapshots.frames) == ("rl-video-step-0.snapshots.npz", 10)
    with np.load(output_dir / clip.snapshots.file, allow_pickle=False) as archive:
        assert json.loads(archive["about"].item())["clip"] == "rl-video-step-0"
        assert archive["steps/18"].tobytes() == (18).to_bytes(8, "little")
    assert inspect(output_dir).differences == ()


def test_what_was_kept_is_drawn_as_it_would_have_been(output_dir: Path) -> None:
    record(later(output_dir), SyntheticBackend(snapshot=True), 20)
    assert clips_to_render(output_dir) == ("rl-video-step-0",)
    rendered = render_clip(output_dir, "rl-video-step-0")
    assert (rendered.drawn, rendered.left, rendered.failures) == (20, 0, ())
    clip = read_manifest(output_dir / "rl-video-step-0.json")
    assert clip == rendered.clip
    assert clip.state is ClipState.COMPLETE
    check_clip(output_dir, clip)
    assert inspect(output_dir).differences == ()
    again = render_clip(output_dir, "rl-video-step-0")
    assert (again.drawn, again.clip) == (0, clip)


def test_another_size_gives_another_clip(output_dir: Path) -> None:
    record(later(output_dir), SyntheticBackend(snapshot=True), 20)
    rendered = render_clip(output_dir, "rl-video-step-0", options=RenderOptions(width=640, height=360), save_as="large")
    assert rendered.clip.name == "rl-video-step-0-large"
    assert rendered.clip.state is ClipState.COMPLETE
    assert shown_steps(output_dir / "rl-video-step-0-large.mp4") == list(range(20))
    assert read_manifest(output_dir / "rl-video-step-0.json").state is ClipState.UNRENDERED
    assert inspect(output_dir).differences == ()


def test_another_size_needs_a_name_and_the_same_one_takes_none(output_dir: Path) -> None:
    record(later(output_dir), SyntheticBackend(snapshot=True), 20)
    with pytest.raises(ConfigurationError, match="save_as"):
        render_clip(output_dir, "rl-video-step-0", options=RenderOptions(width=640))
    with pytest.raises(ConfigurationError, match="save_as"):
        render_clip(output_dir, "rl-video-step-0", save_as="again")


class Unopened(SyntheticRenderer):
    """Finds nothing to draw with in a worker."""

    def open(self) -> None:
        if os.environ.get("STEPREEL_TEST_NO_DISPLAY"):
            raise BackendError("there is no display")
        super().open()


class WithoutDisplay(SyntheticBackend):
    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        opened = super().open(width=width, height=height, worker_device=worker_device)
        return CaptureFormat(
            width=opened.width,
            height=opened.height,
            nbytes=opened.nbytes,
            steps_per_second=opened.steps_per_second,
            renderer=Unopened(width=320, height=180),
            worker_environment={"STEPREEL_TEST_NO_DISPLAY": "1"},
        )


def test_a_clip_that_nothing_could_draw_is_drawn_later(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=0)
    (clip,) = record(config, WithoutDisplay(snapshot=True), 20)
    assert clip.state is ClipState.UNRENDERED
    assert clip.frames.dropped == {DropCause.RENDER_FAILED: 20}
    check_clip(output_dir, render_clip(output_dir, clip.name).clip)
    assert shown_steps(output_dir / f"{clip.name}.mp4") == list(range(20))


def test_frames_at_the_end_of_a_clip_are_added_to_what_it_has(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=0)
    (clip,) = record(config, SyntheticBackend(snapshot=True, failing_steps={3, *range(12, 20)}), 20)
    assert clip.frames.dropped == {DropCause.RENDER_FAILED: 9}
    assert clip.snapshots
    assert clip.snapshots.frames == 9
    rendered = render_clip(output_dir, clip.name)
    assert (rendered.drawn, rendered.left) == (8, 1)
    assert rendered.clip.missing_steps == ((3, 3),)
    assert rendered.clip.state is ClipState.INCOMPLETE
    check_clip(output_dir, rendered.clip)
    assert inspect(output_dir).differences == ()


def test_an_interrupted_close_keeps_what_was_waiting(output_dir: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import stepreel
            from stepreel.backends.synthetic import SyntheticBackend
            config = stepreel.RecorderConfig(output_dir={str(output_dir)!r}, video_length=100, video_interval=0)
            with stepreel.Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.2)) as recorder:
                for _ in range(100):
                    recorder.step()
                print("closing", flush=True)
            """
        )
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    poll_until_line(process, "closing")
    poll_until(lambda: list(output_dir.glob("*.mp4.part")) != [])
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    clip = read_manifest(output_dir / "rl-video-step-0.json")
    assert clip.frames.dropped[DropCause.CLOSED] > 50
    assert clip.snapshots
    rendered = render_clip(output_dir, clip.name)
    assert rendered.clip.state is ClipState.COMPLETE
    check_clip(output_dir, rendered.clip)


def poll_until_line(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if word in line:
            return
    pytest.fail(f"the program ended without saying {word}")


@pytest.mark.parametrize("cut", [0, 1, 700])
def test_recover_closes_what_a_killed_run_kept(output_dir: Path, tmp_path: Path, cut: int) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, signal, stepreel
            from stepreel.backends.synthetic import SyntheticBackend
            config = stepreel.RecorderConfig(output_dir={str(output_dir)!r}, video_length=100, video_interval=0,
                                             render="later")
            with stepreel.Recorder(config, SyntheticBackend(snapshot=True)) as recorder:
                for _ in range(40):
                    recorder.step()
                while recorder.statistics().frames.pending:
                    pass
                print("kept", flush=True)
                input()
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    poll_until_line(process, "kept")
    part = output_dir / "rl-video-step-0.snapshots.npz.part"
    poll_until(lambda: part.exists() and part.read_bytes().count(b"PK\x03\x04steps/") >= 0 and has_steps(part, 40))
    kill_everything(psutil.Process(process.pid))
    process.communicate(timeout=30)
    os.truncate(part, part.stat().st_size - cut)
    repaired = recover(output_dir)
    assert repaired.problems == ()
    clip = read_manifest(output_dir / "rl-video-step-0.json")
    assert clip.state is ClipState.UNRENDERED
    assert clip.snapshots
    with SnapshotReader(output_dir / clip.snapshots.file) as reader:
        assert reader.steps == list(range(clip.snapshots.frames))
    assert clip.snapshots.frames >= (40 if cut == 0 else 36)
    # The last manifest may have counted a step whose snapshot was cut off.
    assert clip.snapshots.frames <= clip.frames.requested == clip.frames.dropped_total <= 40
    rendered = render_clip(output_dir, clip.name)
    assert rendered.drawn == clip.snapshots.frames
    check_clip(output_dir, rendered.clip)
    assert recover(output_dir).repaired == ()


def has_steps(part: Path, count: int) -> bool:
    return part.read_bytes().count(b"steps/") >= count


def test_recover_takes_no_snapshot_whose_size_was_not_filled_in_yet(output_dir: Path) -> None:
    (clip,) = record(later(output_dir), SyntheticBackend(snapshot=True), 20)
    assert clip.snapshots
    closed = output_dir / clip.snapshots.file
    data = closed.read_bytes()
    name = b"steps/20.npy"
    begun = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name
    part = closed.with_name(f"{closed.name}.part")
    part.write_bytes(data[: data.index(b"PK\x01\x02")] + begun)
    closed.unlink()
    (output_dir / f"{clip.name}.json").write_bytes(b"")
    (repaired,) = recover(output_dir).repaired
    assert repaired.clip.snapshots
    assert repaired.clip.snapshots.frames == 20
    with SnapshotReader(closed) as reader:
        assert reader.steps == list(range(20))


def test_recover_lists_snapshots_that_no_manifest_tells_of_yet(output_dir: Path) -> None:
    (clip,) = record(later(output_dir), SyntheticBackend(snapshot=True), 20)
    assert clip.snapshots
    manifest = output_dir / f"{clip.name}.json"
    manifest.write_bytes(b"")  # The name was reserved, and the process killed before it wrote more.
    file = output_dir / clip.snapshots.file
    for name in (f"{file.name}.part", file.name):
        file.rename(output_dir / name)
        manifest.write_bytes(b"")
        (repaired,) = recover(output_dir).repaired
        assert repaired.clip.state is ClipState.UNRENDERED
        assert repaired.clip.missing_steps == ((0, 19),)
        assert read_manifest(manifest).snapshots == clip.snapshots
        assert recover(output_dir).repaired == ()
    assert render_clip(output_dir, clip.name).drawn == 20


def test_recover_leaves_snapshots_of_another_clip_as_they_are(output_dir: Path) -> None:
    (clip,) = record(later(output_dir), SyntheticBackend(snapshot=True), 20)
    assert clip.snapshots
    other = output_dir / "other.snapshots.npz"
    (output_dir / clip.snapshots.file).rename(other)
    (output_dir / "other.json").write_bytes(b"")
    (output_dir / f"{clip.name}.json").unlink()
    (problem,) = recover(output_dir).problems
    assert "holds the snapshots of" in problem
    assert other.exists()


def test_pictures_can_not_be_kept_for_later(output_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="render"):
        Recorder(later(output_dir), SyntheticBackend())


def test_a_folder_that_is_being_recorded_into_is_left_alone(output_dir: Path) -> None:
    with (
        Recorder(later(output_dir), SyntheticBackend(snapshot=True)),
        pytest.raises(OutputError, match="recorded into"),
    ):
        render_clip(output_dir, "rl-video-step-0")


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def compressed(path: Path) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def of_objects(path: Path) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["steps/3"] = np.array([{"any": "thing"}], dtype=object)
    with path.open("wb") as file:
        np.savez(file, **arrays)


def of_another_kind(path: Path) -> None:
    change_about(path, kind="slides")


def with_wild_settings(path: Path) -> None:
    change_about(path, encoding={"output_dir": "/etc"})


def with_huge_pictures(path: Path) -> None:
    change_about(path, settings={"width": 10**9, "height": 10**9})


def without_fps(path: Path) -> None:
    change_about(path, fps=0)


def of_another_clip(path: Path) -> None:
    change_about(path, clip="somebody-elses")


def change_about(path: Path, **changes: object) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["about"] = np.array(json.dumps({**json.loads(arrays["about"].item()), **changes}))
    with path.open("wb") as file:
        np.savez(file, **arrays)


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        compressed,
        of_objects,
        of_another_kind,
        with_wild_settings,
        with_huge_pictures,
        without_fps,
        of_another_clip,
    ],
)
def test_a_damaged_or_hostile_file_is_refused_in_one_line(output_dir: Path, damage: Callable[[Path], None]) -> None:
    record(later(output_dir), SyntheticBackend(snapshot=True), 20)
    damage(output_dir / "rl-video-step-0.snapshots.npz")
    result = CliRunner().invoke(main, ["render", str(output_dir)])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert read_manifest(output_dir / "rl-video-step-0.json").frames.encoded == 0


def test_the_command_draws_every_clip_and_says_so(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=10, render="later")  # type: ignore[arg-type]
    record(config, SyntheticBackend(snapshot=True), 20)
    result = CliRunner().invoke(main, ["render", str(output_dir)])
    assert result.exit_code == 0, result.output
    assert "rl-video-step-10: 10 frames drawn, 10 of 10 there" in result.stdout
    assert all(clip.state is ClipState.COMPLETE for clip in inspect(output_dir).clips)
    larger = CliRunner().invoke(
        main, ["render", str(output_dir), "--clip", "rl-video-step-0", "--width", "640", "--height", "360"]
    )
    assert larger.exit_code == 0, larger.output
    assert (output_dir / "rl-video-step-0-size.mp4").exists()


def test_the_command_says_where_nothing_is_kept(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["render", str(tmp_path)])
    assert result.exit_code == 0
    assert "no snapshots are kept here" in result.stdout
