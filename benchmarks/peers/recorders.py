"""The recorders that are compared: each takes an environment and gives back what performs one step of training."""

from __future__ import annotations

import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .plan import Plan
from .workload import Picture, PictureEnv

Step = Callable[[int], None]
"""Performs the step of this number, and records it if it is in a clip."""
Setup = Callable[[Plan, PictureEnv, Path], AbstractContextManager[Step]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A recorder of the comparison."""

    title: str
    setup: Setup
    baseline: str | None
    """Key of the loop that its steps are held against; None: it is one."""
    package: str | None = None
    """The distribution whose version belongs to the result."""
    modules: tuple[str, ...] = ()
    """Imported before memory is measured: a training script has most of them anyway."""
    environment: str = "peers"
    """The virtual environment that it runs in: one whose packages contradict the others' has its own."""
    records: bool = True

    def describe(self) -> str:
        """Return title and version, of the environment that this is called in."""
        return f"{self.title} {metadata.version(self.package)}" if self.package else self.title


@contextmanager
def draw_and_throw_away(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Step]:
    def step(number: int) -> None:
        env.step(0)
        if plan.is_captured(number):
            env.render()

    yield step


@contextmanager
def only_step(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Step]:
    def step(number: int) -> None:
        env.step(0)

    yield step


@contextmanager
def gymnasium_record_video(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Step]:
    from gymnasium.wrappers import RecordVideo

    starts = set(plan.clip_starts)
    # It closes a clip once more than `video_length` frames are there.
    recorded: Any = RecordVideo(
        env, str(folder), step_trigger=starts.__contains__, video_length=plan.clip_steps - 1, fps=plan.fps
    )
    recorded.reset()

    def step(number: int) -> None:
        recorded.step(0)

    yield step
    recorded.close()


@contextmanager
def stable_baselines3(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Step]:
    import numpy as np
    from stable_baselines3.common.vec_env import DummyVecEnv, VecVideoRecorder

    starts = set(plan.clip_starts)
    actions = np.zeros(1, np.int64)
    recorded = VecVideoRecorder(
        DummyVecEnv([lambda: env]),
        str(folder),
        record_video_trigger=lambda steps_done: steps_done - 1 in starts,
        video_length=plan.clip_steps - 1,
    )
    recorded.reset()

    def step(number: int) -> None:
        recorded.step(actions)

    yield step
    recorded.close()


@contextmanager
def lerobot_streaming(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Step]:
    from lerobot.datasets.video_utils import StreamingVideoEncoder  # type: ignore[import-not-found]

    starts = set(plan.clip_starts)
    # Its H.264 takes no preset: it is libx264's own, medium.
    encoder = StreamingVideoEncoder(
        fps=plan.fps, vcodec="h264", g=plan.fps, crf=plan.crf, queue_maxsize=plan.queue_frames
    )

    def step(number: int) -> None:
        env.step(0)
        if not plan.is_captured(number):
            return
        if number in starts:
            encoder.start_episode(["camera"], folder)
        encoder.feed_frame("camera", env.render())
        if plan.is_last_of_clip(number):
            encoder.finish_episode()

    yield step
    encoder.close()


@contextmanager
def thread_and_queue(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Step]:
    """What one writes in an hour: a bounded queue, and a thread that encodes what comes out of it."""
    pictures: queue.Queue[Picture | None] = queue.Queue(maxsize=plan.queue_frames)
    encoder: threading.Thread | None = None

    def step(number: int) -> None:
        nonlocal pictures, encoder
        env.step(0)
        if not plan.is_captured(number):
            return
        if not plan.is_captured(number - 1):
            if encoder:
                encoder.join()
            path = folder / f"clip-{number}.mp4"
            encoder = threading.Thread(target=_encode, args=(pictures, path, plan))
            encoder.start()
        try:
            pictures.put_nowait(env.render())
        except queue.Full:
            pass  # Lost; found when the clip is decoded.
        if plan.is_last_of_clip(number):
            pictures.put(None)

    yield step
    if encoder:
        encoder.join()


def _encode(pictures: queue.Queue[Picture | None], path: Path, plan: Plan) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=plan.fps, options={"preset": plan.preset, "crf": str(plan.crf), "g": str(plan.fps)}
        )
        stream.width, stream.height, stream.pix_fmt = plan.width, plan.height, "yuv420p"
        while (picture := pictures.get()) is not None:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@contextmanager
def ffmpeg_pipe(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Step]:
    program = find_ffmpeg()
    encoder: subprocess.Popen[bytes] | None = None

    def step(number: int) -> None:
        nonlocal encoder
        env.step(0)
        if not plan.is_captured(number):
            return
        if encoder is None:
            encoder = subprocess.Popen(
                _ffmpeg_command(program, plan, folder / f"clip-{number}.mp4"), stdin=subprocess.PIPE
            )
        assert encoder.stdin
        encoder.stdin.write(env.render().data)
        if plan.is_last_of_clip(number):
            encoder.stdin.close()
            encoder.wait()
            encoder = None

    yield step


def find_ffmpeg() -> str:
    """Return the path of the ffmpeg program: the system's, else the one that moviepy brings."""
    found = shutil.which("ffmpeg")
    if found is None:
        import imageio_ffmpeg  # type: ignore[import-untyped]

        found = imageio_ffmpeg.get_ffmpeg_exe()
    return str(found)


def _ffmpeg_command(program: str, plan: Plan, path: Path) -> list[str]:
    command = [program, "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{plan.width}x{plan.height}", "-r", str(plan.fps), "-i", "pipe:0"]
    command += ["-c:v", "libx264", "-preset", plan.preset, "-crf", str(plan.crf), "-g", str(plan.fps)]
    # As stepreel has it: one thread, and colours as in BT.709, told to the player.
    command += ["-threads", "1", "-pix_fmt", "yuv420p", "-vf", "scale=out_color_matrix=bt709:out_range=tv"]
    command += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    return [*command, str(path)]


@contextmanager
def stepreel_pixels(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Step]:
    from stepreel.backends.gymnasium import GymnasiumBackend

    with _stepreel(plan, env, folder, GymnasiumBackend(env)) as step:
        yield step


@contextmanager
def stepreel_snapshots(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Step]:
    from .snapshots import SnapshotBackend

    with _stepreel(plan, env, folder, SnapshotBackend(env, plan)) as step:
        yield step


@contextmanager
def _stepreel(plan: Plan, env: PictureEnv, folder: Path, backend: Any) -> Iterator[Step]:
    from stepreel import Recorder, RecorderConfig

    config = RecorderConfig(
        output_dir=folder,
        video_length=plan.clip_steps,
        video_interval=plan.interval_steps,
        step_offset=plan.warmup_steps,
        width=plan.width,
        height=plan.height,
        fps=plan.fps,
        codec="libx264",
        preset=plan.preset,
        crf=plan.crf,
        # Half a clip of pixels; of snapshots, what the default holds.
        **_queue_limits(plan, backend),
    )
    with Recorder(config, backend) as recorder:
        recorder.reset()

        def step(number: int) -> None:
            env.step(0)
            recorder.step()

        yield step


def _queue_limits(plan: Plan, backend: Any) -> dict[str, Any]:
    if backend.name != "gymnasium":
        return {}
    return {"queue_depth": plan.queue_frames, "queue_bytes": plan.queue_frames * plan.picture_nbytes}


PEERS: dict[str, Peer] = {
    "drawn": Peer(title="no recorder, pictures thrown away", setup=draw_and_throw_away, baseline=None, records=False),
    "undrawn": Peer(title="no recorder, nothing drawn", setup=only_step, baseline=None, records=False),
    "gymnasium": Peer(
        title="Gymnasium RecordVideo",
        setup=gymnasium_record_video,
        baseline="drawn",
        package="gymnasium",
        modules=("gymnasium.wrappers", "moviepy.video.io.ImageSequenceClip"),
    ),
    "stable_baselines3": Peer(
        title="Stable-Baselines3 VecVideoRecorder",
        setup=stable_baselines3,
        baseline="drawn",
        package="stable-baselines3",
        modules=("stable_baselines3.common.vec_env", "moviepy.video.io.ImageSequenceClip"),
    ),
    "drawn_lerobot": Peer(
        title="no recorder, pictures thrown away, in LeRobot's environment",
        setup=draw_and_throw_away,
        baseline=None,
        environment="lerobot",
        records=False,
    ),
    "lerobot": Peer(
        title="LeRobot StreamingVideoEncoder",
        setup=lerobot_streaming,
        baseline="drawn_lerobot",
        package="lerobot",
        modules=("lerobot.datasets.video_utils", "lerobot.datasets.compute_stats"),
        environment="lerobot",
    ),
    "thread": Peer(
        title="a thread, a queue and PyAV", setup=thread_and_queue, baseline="drawn", package="av", modules=("av",)
    ),
    "ffmpeg": Peer(title="the ffmpeg program over a pipe", setup=ffmpeg_pipe, baseline="drawn"),
    "stepreel": Peer(title="stepreel, pixels", setup=stepreel_pixels, baseline="drawn", modules=("stepreel",)),
    "stepreel_snapshots": Peer(
        title="stepreel, snapshots", setup=stepreel_snapshots, baseline="undrawn", modules=("stepreel",)
    ),
}
"""By key, in the order of the table."""
