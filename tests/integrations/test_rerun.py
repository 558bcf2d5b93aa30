"""`RerunHook` and `log_clip`, against real recordings, read back by Rerun itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import pytest
from structlog.testing import capture_logs

from stepreel import Recorder, RecorderConfig, Summary
from stepreel.backends.synthetic import SyntheticBackend, read_step
from stepreel.errors import HookError, OutputError
from stepreel.hooks.rerun import RerunHook, log_clip

from .recorded import record

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default")]

CLIP_STEPS = [*range(20), *range(40, 60)]


@dataclass(slots=True, kw_only=True)
class Entity:
    """What a recording holds of one entity, as it was logged."""

    codecs: list[int] = field(default_factory=list)
    columns: dict[str, dict[int, Any]] = field(default_factory=dict)
    """Component, step: value."""

    def samples(self) -> dict[int, bytes]:
        return {step: bytes(sample) for step, sample in self.columns["VideoStream:sample"].items()}


def read_back(path: Path, timeline: str = "step") -> dict[str, Entity]:
    """Return the entities of a recording, by their paths."""
    from rerun.chunk import RrdReader

    entities: dict[str, Entity] = {}
    for chunk in RrdReader(path).stream().collect().stream():
        entity = entities.setdefault(chunk.entity_path, Entity())
        rows = chunk.to_record_batch()
        for component in (name for name in rows.schema.names if name.startswith(("VideoStream:", "Scalars:"))):
            values = [value for (value,) in rows[component].to_pylist()]
            if chunk.is_static:
                entity.codecs += values
            else:
                entity.columns.setdefault(component, {}).update(zip(rows[timeline].to_pylist(), values, strict=True))
    return entities


def steps_shown(samples: dict[int, bytes]) -> list[int]:
    """Decode samples in the order of their steps, and return the step that each picture shows."""
    decoder = av.VideoCodecContext.create("h264", "r")
    pictures = [frame for _, sample in sorted(samples.items()) for frame in decoder.decode(av.Packet(sample))]
    pictures += decoder.decode(None)
    return [read_step(frame.to_ndarray(format="rgb24").astype("uint8")) for frame in pictures]


@contextmanager
def recording_at(path: Path) -> Iterator[Any]:
    """Give a recording that is a whole file when the block is left."""
    import rerun

    recording = rerun.RecordingStream("stepreel-tests")
    recording.save(path)
    yield recording
    recording.disconnect()


def record_streams(output_dir: Path, hook: RerunHook) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=40)
    cameras = {name: SyntheticBackend(width=320, height=180) for name in ("front", "far side")}
    with Recorder(config, cameras, on_clip_closed=hook) as recorder:
        for _ in range(20):
            recorder.step()


def test_the_samples_stand_at_their_steps_beside_what_training_logs(tmp_path: Path, output_dir: Path) -> None:
    import rerun

    with recording_at(tmp_path / "run.rrd") as recording:
        config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=40, gop_s=0.2)
        backend = SyntheticBackend(width=320, height=180)
        with RerunHook(recording) as hook, Recorder(config, backend, on_clip_closed=hook) as recorder:
            for step in range(60):
                recorder.step()
                recording.set_time("step", sequence=step)
                recording.log("reward", rerun.Scalars(step / 2))
    entities = read_back(tmp_path / "run.rrd")
    assert entities["/reward"].columns["Scalars:scalars"] == {step: step / 2 for step in range(60)}
    assert entities["/clip"].codecs == [rerun.VideoCodec.H264.value]
    samples = entities["/clip"].samples()
    assert list(samples) == CLIP_STEPS
    assert steps_shown(samples) == CLIP_STEPS


def test_rerun_finds_the_keyframes_of_every_segment(tmp_path: Path, output_dir: Path) -> None:
    from rerun import VideoCodec
    from rerun.experimental.video import detect_gop_start

    with recording_at(tmp_path / "run.rrd") as recording, RerunHook(recording) as hook:
        summary = record(output_dir, hook, segment_s=0.4)
    samples = read_back(tmp_path / "run.rrd")["/clip"].samples()
    assert steps_shown(samples) == CLIP_STEPS
    found = {step for step, sample in samples.items() if detect_gop_start(sample, VideoCodec.H264)}
    first_steps = {segment.first_step for clip in summary.clips for segment in clip.segments}
    assert len(first_steps) == 4
    assert first_steps <= found < set(CLIP_STEPS)


def test_each_stream_is_an_entity_of_its_own(tmp_path: Path, output_dir: Path) -> None:
    with recording_at(tmp_path / "run.rrd") as recording:
        with RerunHook(recording, entity="videos", timeline="env_step") as hook:
            record_streams(output_dir, hook)
    entities = read_back(tmp_path / "run.rrd", "env_step")
    assert {path for path, entity in entities.items() if entity.codecs} == {"/videos/front", r"/videos/far\ side"}
    for path in ("/videos/front", r"/videos/far\ side"):
        assert steps_shown(entities[path].samples()) == list(range(20))


@pytest.mark.parametrize("by_path", [True, False])
def test_a_clip_that_is_there_already_is_logged_and_the_caller_s_time_stays(
    tmp_path: Path, output_dir: Path, by_path: bool
) -> None:
    import rerun

    summary = record(output_dir, lambda clip: None)
    with recording_at(tmp_path / "run.rrd") as recording:
        recording.set_time("step", sequence=7)
        for clip in summary.clips:
            log_clip(output_dir / f"{clip.name}.json" if by_path else clip, recording)
        recording.log("now", rerun.Scalars(1.0))
    entities = read_back(tmp_path / "run.rrd")
    assert steps_shown(entities["/clip"].samples()) == CLIP_STEPS
    assert entities["/now"].columns["Scalars:scalars"] == {7: 1.0}


def test_without_a_recording_the_active_one_is_taken_also_that_of_one_thread(tmp_path: Path, output_dir: Path) -> None:
    with pytest.raises(HookError, match=r"recording: got None, and none is active; call rerun\.init first"):
        RerunHook()
    with recording_at(tmp_path / "run.rrd") as recording:
        with recording, RerunHook() as hook:
            record(output_dir, hook)
    assert steps_shown(read_back(tmp_path / "run.rrd")["/clip"].samples()) == CLIP_STEPS


def test_a_codec_that_rerun_does_not_show_is_refused_by_name(tmp_path: Path, output_dir: Path) -> None:
    summary = record_as(output_dir, codec="mpeg4")
    with recording_at(tmp_path / "run.rrd") as recording:
        with pytest.raises(
            HookError, match=r"rl-video-step-0 is not logged: its codec is mpeg4; Rerun shows h264, hevc"
        ):
            log_clip(summary.clips[0], recording)
    assert "/clip" not in read_back(tmp_path / "run.rrd")


@pytest.mark.parametrize("codec", ["libx265", "libsvtav1", "libvpx-vp9"])
def test_other_codecs_are_logged_under_their_names(tmp_path: Path, output_dir: Path, codec: str) -> None:
    import rerun
    from rerun.experimental.video import detect_gop_start

    theirs = {"libx265": "H265", "libsvtav1": "AV1", "libvpx-vp9": "VP9"}[codec]
    summary = record_as(output_dir, codec=codec)
    with recording_at(tmp_path / "run.rrd") as recording:
        log_clip(summary.clips[0], recording)
    clip = read_back(tmp_path / "run.rrd")["/clip"]
    assert clip.codecs == [rerun.VideoCodec[theirs].value]
    assert list(clip.samples()) == list(range(20))
    assert detect_gop_start(clip.samples()[0], rerun.VideoCodec[theirs])
    assert not detect_gop_start(clip.samples()[1], rerun.VideoCodec[theirs])


def test_a_clip_of_another_size_is_refused_and_the_next_one_is_logged(tmp_path: Path, output_dir: Path) -> None:
    first, second, third = (
        record_as(output_dir / name, width=width).clips[0]
        for name, width in (("first", 320), ("second", 480), ("third", 320))
    )
    with recording_at(tmp_path / "run.rrd") as recording, capture_logs() as logs:
        with RerunHook(recording) as hook:
            hook(first)
            hook(second)
        (failure,) = logs
        assert failure["event"] == "hook.failed"
        assert "from step 0 on: it is h264 of 480x180, and clip holds h264 of 320x180" in failure["error"]
        log_clip(second, recording, entity="wide")
        log_clip(third, recording, entity="third")
    entities = read_back(tmp_path / "run.rrd")
    for path in ("/clip", "/wide", "/third"):
        assert steps_shown(entities[path].samples()) == list(range(20))


def test_of_a_clip_that_changes_its_size_the_segments_before_are_logged(tmp_path: Path, output_dir: Path) -> None:
    clip = record_as(output_dir).clips[0]
    other = record_as(output_dir, width=480, name_prefix="other").clips[0]
    with recording_at(tmp_path / "run.rrd") as recording:
        with pytest.raises(HookError, match="it is h264 of 480x180, and clip holds h264 of 320x180"):
            log_clip(replace(clip, segments=clip.segments + other.segments), recording)
    assert steps_shown(read_back(tmp_path / "run.rrd")["/clip"].samples()) == list(range(20))


def test_a_long_clip_goes_to_rerun_in_pieces_that_begin_with_a_keyframe(
    tmp_path: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerun import VideoCodec
    from rerun.chunk import RrdReader
    from rerun.experimental.video import detect_gop_start

    monkeypatch.setattr("stepreel.hooks.rerun._BATCH_NBYTES", 1000)
    summary = record(output_dir, lambda clip: None)
    with recording_at(tmp_path / "run.rrd") as recording:
        log_clip(summary.clips[0], recording)
    assert steps_shown(read_back(tmp_path / "run.rrd")["/clip"].samples()) == list(range(20))
    chunks = [chunk for chunk in RrdReader(tmp_path / "run.rrd").stream() if chunk.entity_path == "/clip"]
    firsts = [chunk.to_record_batch()["VideoStream:sample"][0][0] for chunk in chunks if not chunk.is_static]
    assert len(firsts) == 4
    assert all(detect_gop_start(bytes(sample.as_py()), VideoCodec.H264) for sample in firsts)


def test_a_manifest_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with recording_at(tmp_path / "run.rrd") as recording:
        with pytest.raises(OutputError, match=r"gone\.json can't be read"):
            log_clip(str(tmp_path / "gone.json"), recording)


def record_as(output_dir: Path, *, codec: str = "libx264", width: int = 320, name_prefix: str = "rl-video") -> Summary:
    """Record one clip of 20 steps."""
    config = RecorderConfig(
        output_dir=output_dir, video_length=20, video_interval=40, codec=codec, name_prefix=name_prefix
    )
    with Recorder(config, SyntheticBackend(width=width, height=180)) as recorder:
        for _ in range(20):
            recorder.step()
    return recorder.summary()
