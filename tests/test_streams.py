"""Several streams in one recorder: the same steps of each, in clips and books of their own."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import pytest

from stepreel import (
    AsyncRecorder,
    BackendError,
    Clip,
    ClipState,
    ConfigurationError,
    DropCause,
    DropPolicy,
    Recorder,
    RecorderConfig,
    Segment,
)
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.interfaces import Backend, CaptureFormat

from .recordings import check_clip, expand


def two_backends() -> dict[str, Backend]:
    return {
        "front": SyntheticBackend(width=320, height=180),
        "side": SyntheticBackend(snapshot=True, width=160, height=96),
    }


@pytest.mark.parametrize("worker_count", [1, 2])
def test_each_stream_gets_clips_manifests_and_numbers_of_its_own(output_dir: Path, worker_count: int) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=30, worker_count=worker_count)
    with Recorder(config, two_backends()) as recorder:
        for _ in range(60):
            recorder.step()
    clips = {clip.name: clip for clip in recorder.summary().clips}
    assert sorted(clips) == [
        "rl-video-front-step-0",
        "rl-video-front-step-30",
        "rl-video-side-step-0",
        "rl-video-side-step-30",
    ]
    for name, clip in clips.items():
        assert clip.stream in name
        assert (clip.width, clip.height) == ((320, 180) if clip.stream == "front" else (160, 96))
        assert clip.state is ClipState.COMPLETE
        check_clip(output_dir, clip)
    assert recorder.summary().frames.encoded == 80


async def test_streams_record_in_async_code(output_dir: Path) -> None:
    async with AsyncRecorder(
        RecorderConfig(output_dir=output_dir, video_length=5, video_interval=0), two_backends()
    ) as one:
        for _ in range(6):
            await one.step()
    assert [clip.frames.encoded for clip in one.summary().clips] == [5, 5]


def test_a_stream_without_pictures_takes_none_from_the_others(output_dir: Path) -> None:
    backends: dict[str, Backend] = {
        "broken": SyntheticBackend(failing_steps=range(100)),
        "half": SyntheticBackend(snapshot=True, failing_steps=range(10)),
        "whole": SyntheticBackend(),
    }
    with Recorder(RecorderConfig(output_dir=output_dir, video_length=20, video_interval=0), backends) as recorder:
        for _ in range(20):
            recorder.step()
    clips = {clip.stream: clip for clip in recorder.summary().clips}
    assert clips["broken"].state is ClipState.FAILED
    assert clips["broken"].frames.dropped == {DropCause.CAPTURE_FAILED: 20}
    assert clips["half"].frames.dropped == {DropCause.RENDER_FAILED: 10}
    assert clips["half"].missing_steps == ((0, 9),)
    assert clips["whole"].state is ClipState.COMPLETE
    for clip in clips.values():
        check_clip(output_dir, clip)


def test_a_full_queue_is_shared_and_accounted_for_by_stream(output_dir: Path) -> None:
    config = RecorderConfig(
        output_dir=output_dir, video_length=60, video_interval=0, queue_depth=4, drop_policy=DropPolicy.DROP_OLDEST
    )
    backends: dict[str, Backend] = {
        name: SyntheticBackend(snapshot=True, render_delay_s=0.01) for name in ("left", "right")
    }
    with Recorder(config, backends) as recorder:
        for _ in range(60):
            recorder.step()
    clips = recorder.summary().clips
    assert [clip.frames.requested for clip in clips] == [60, 60]
    assert sum(clip.frames.dropped_total for clip in clips) > 0
    for clip in clips:
        assert set(clip.frames.dropped) <= {DropCause.QUEUE_FULL}
        check_clip(output_dir, clip)


def test_clips_by_hand_and_by_episode_are_named_after_their_stream(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=0, episode_trigger=lambda episode: episode == 1)
    with Recorder(config, two_backends()) as recorder:
        recorder.reset()
        recorder.start_clip("look", length=3)
        for _ in range(4):
            recorder.step()
        recorder.reset()
        recorder.step()
    assert sorted(clip.name for clip in recorder.summary().clips) == [
        "rl-video-front-episode-1",
        "rl-video-front-look",
        "rl-video-side-episode-1",
        "rl-video-side-look",
    ]


def test_old_clips_are_deleted_stream_by_stream(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=2, video_interval=4, keep_last_n_clips=1)
    with Recorder(config, two_backends()) as recorder:
        for _ in range(12):
            recorder.step()
    assert sorted(path.name for path in output_dir.glob("*.mp4")) == [
        "rl-video-front-step-8.mp4",
        "rl-video-side-step-8.mp4",
    ]


def test_the_session_describes_every_stream(output_dir: Path) -> None:
    with Recorder(RecorderConfig(output_dir=output_dir), two_backends()):
        pass
    streams = json.loads((output_dir / "session.json").read_text())["streams"]
    assert {name: (one["backend"], one["fps"]) for name, one in streams.items()} == {
        "front": ("synthetic", 30.0),
        "side": ("synthetic", 30.0),
    }


@pytest.mark.parametrize("name", ["", "../up", "a/b", "-dash", "x" * 41, "nul\0"])
def test_a_stream_name_that_can_be_in_no_file_name_is_refused(output_dir: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"stream: got .*allowed"):
        Recorder(RecorderConfig(output_dir=output_dir), {name: SyntheticBackend()})


def test_no_stream_at_all_is_refused(output_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="no stream"):
        Recorder(RecorderConfig(output_dir=output_dir), {})


class Closeable(SyntheticBackend):
    """Tells whether it was closed, and wants a variable in its worker's environment."""

    def __init__(self, value: str) -> None:
        super().__init__(snapshot=True)
        self.is_closed = False
        self._value = value

    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        if self._value == "unfit":
            raise BackendError("there is nothing to record")
        opened = super().open(width=width, height=height, worker_device=worker_device)
        return CaptureFormat(
            width=opened.width,
            height=opened.height,
            nbytes=opened.nbytes,
            steps_per_second=opened.steps_per_second,
            renderer=opened.renderer,
            worker_environment={"STEPREEL_TEST_DEVICE": self._value},
        )

    def close(self) -> None:
        self.is_closed = True
        super().close()


@pytest.mark.parametrize(("other", "error"), [("unfit", BackendError), ("1", ConfigurationError)])
def test_streams_that_can_not_go_together_are_closed_again(
    output_dir: Path, other: str, error: type[Exception]
) -> None:
    first = Closeable("0")
    with pytest.raises(error):
        Recorder(RecorderConfig(output_dir=output_dir), {"first": first, "second": Closeable(other)})
    assert first.is_closed


class Rebuilt(SyntheticBackend):
    """Becomes another simulator, with larger pictures, before the second clip and is gone before the fourth."""

    def __init__(self, *, fatal_steps: Collection[int] = ()) -> None:
        super().__init__(snapshot=True, width=160, height=96, fatal_steps=fatal_steps)
        self._clips = 0

    def renewed(self) -> CaptureFormat | None:
        self._clips += 1
        if self._clips == 4:
            raise BackendError("the simulator is gone")
        return self.open(width=320, height=180, worker_device="auto") if self._clips == 2 else None


@pytest.mark.parametrize("worker_count", [1, 2])
def test_clips_are_drawn_with_the_simulator_that_was_there_when_they_opened(
    output_dir: Path, worker_count: int
) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=10, worker_count=worker_count)
    with Recorder(config, Rebuilt()) as recorder:
        for _ in range(40):
            recorder.step()
    clips = sorted(recorder.summary().clips, key=lambda clip: clip.start_step)
    assert [clip.width for clip in clips] == [160, 320, 320, 320]
    for clip in clips:
        assert clip.state is ClipState.COMPLETE
        check_clip(output_dir, clip)
    log = (output_dir / "session.jsonl").read_text()
    assert log.count("stream.renewed") == 1
    assert "the simulator is gone" in log


def test_a_worker_lost_after_a_renewal_is_replaced_by_one_that_knows_both(output_dir: Path) -> None:
    backend = Rebuilt(fatal_steps={5})
    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=10)
    with Recorder(config, backend) as recorder:
        for _ in range(20):
            recorder.step()
    first, second = sorted(recorder.summary().clips, key=lambda clip: clip.start_step)
    assert 5 in expand(first.missing_steps, 1)
    assert (first.width, second.width) == (160, 320)
    for clip in (first, second):
        assert set(clip.frames.dropped) <= {DropCause.WORKER_LOST}
        assert clip.frames.encoded > 0
        check_clip(output_dir, clip)


def test_segments_and_clips_are_announced_in_the_order_of_their_closing(output_dir: Path) -> None:
    heard: list[str] = []

    def on_segment(clip: Clip, segment: Segment) -> None:
        assert segment in clip.segments
        heard.append(segment.file)

    config = RecorderConfig(output_dir=output_dir, video_length=60, video_interval=0, segment_s=1.0)
    recorder = Recorder(
        config, SyntheticBackend(), on_segment_closed=on_segment, on_clip_closed=lambda clip: heard.append(clip.name)
    )
    with recorder:
        for _ in range(60):
            recorder.step()
    assert heard == ["rl-video-step-0.000.mp4", "rl-video-step-0.001.mp4", "rl-video-step-0"]


def test_a_hook_that_raises_is_logged_and_nothing_else(output_dir: Path) -> None:
    def fails(clip: Clip, segment: Segment) -> None:
        raise ValueError("no such table")

    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=0)
    with Recorder(config, SyntheticBackend(), on_segment_closed=fails) as recorder:
        for _ in range(5):
            recorder.step()
    assert recorder.summary().clips[0].state is ClipState.COMPLETE
    assert "no such table" in (output_dir / "session.jsonl").read_text()
