"""The recorders that are compared: each takes an environment and gives back what performs the steps of training."""

from __future__ import annotations

import mmap
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from .plan import Phase, Plan
from .workload import Picture, PictureEnv


def _nothing() -> None:
    """Everything was done in the last step of the clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A recorder at work."""

    step: Callable[[int], object]
    """Performs the step of this number, and records it if it is in a clip."""
    finish: Callable[[], object] = _nothing
    """Waits until the clip before is encoded; called between a gap and the next rest."""


Setup = Callable[[Plan, PictureEnv, Path], AbstractContextManager[Session]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A recorder of the comparison."""

    title: str
    setup: Setup
    without: str = "drawn"
    """Key of the same loop without a recorder, whose ratios show what the machine does on its own."""
    loaded: str | None = None
    """Key of the same loop without a recorder, but with the same load beside it."""
    package: str | None = None
    """The distribution whose version belongs to the result."""
    modules: tuple[str, ...] = ()
    """Imported before memory is measured: a training script has most of them anyway."""
    environment: str = "peers"
    """The virtual environment that it runs in: one whose packages contradict the others' has its own."""
    records: bool = True
    shows_steps: bool = True
    """Whether its pictures are `PictureEnv`'s, which tell their step."""
    encodes_per_s: float = 70.0
    """Pictures that it is thought to encode in a second; only the estimate of how long all takes rests on it."""

    @property
    def draws(self) -> bool:
        """Whether it has pictures drawn on the training thread, so that its baseline has to be drawn too."""
        return self.without == "drawn"

    def describe(self) -> str:
        """Return title and version, of the environment that this is called in."""
        return f"{self.title} {metadata.version(self.package)}" if self.package else self.title


@contextmanager
def draw_and_throw_away(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
    def step(number: int) -> None:
        env.step(0)
        if plan.is_captured(number):
            env.render()

    yield Session(step=step)


@contextmanager
def only_step(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
    yield Session(step=lambda number: env.step(0))


@contextmanager
def only_step_newton(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
    from .cart_poles import CartPoles

    simulation = CartPoles()
    yield Session(step=lambda number: simulation.step())


@contextmanager
def only_step_mujoco(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
    from .humanoids import Humanoids

    simulation = Humanoids()
    yield Session(step=lambda number: simulation.step())


@contextmanager
def draw_and_copy(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
    """Copy each picture once, into shared memory for half a clip, as any recorder in another process has to."""
    memory = mmap.mmap(-1, plan.queue_frames * plan.picture_nbytes)
    slots = np.frombuffer(memory, np.uint8).reshape(plan.queue_frames, plan.height, plan.width, 3)
    slots.fill(1)

    def step(number: int) -> None:
        env.step(0)
        if plan.is_captured(number):
            np.copyto(slots[number % plan.queue_frames], env.render())

    yield Session(step=step)


def beside_load(setup: Setup) -> Setup:
    """Return the same loop beside a program that encodes at idle priority, in clips and gaps, and stands still else."""

    @contextmanager
    def loaded(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
        plan_path = folder.parent / "load.json"
        plan.save(plan_path)
        command = [sys.executable, "-m", "peers.load", str(plan_path), str(os.getpid())]
        command.append(str(threading.get_native_id()))
        with setup(plan, env, folder) as session, subprocess.Popen(command, stdout=subprocess.PIPE) as load:
            assert load.stdout
            load.stdout.readline()
            load.send_signal(signal.SIGSTOP)
            is_running = False

            def step(number: int) -> None:
                nonlocal is_running
                is_wanted = plan.phase(number) in (Phase.CLIP, Phase.GAP)
                if is_wanted is not is_running:
                    is_running = is_wanted
                    load.send_signal(signal.SIGCONT if is_wanted else signal.SIGSTOP)
                session.step(number)

            try:
                yield Session(step=step, finish=session.finish)
            finally:
                load.kill()

    return loaded


@contextmanager
def gymnasium_record_video(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
    from gymnasium.wrappers import RecordVideo

    starts = set(plan.clip_starts)
    # It closes a clip once more than `video_length` frames are there.
    recorded: Any = RecordVideo(
        env, str(folder), step_trigger=starts.__contains__, video_length=plan.clip_steps - 1, fps=plan.fps
    )
    recorded.reset()

    yield Session(step=lambda number: recorded.step(0))
    recorded.close()


@contextmanager
def stable_baselines3(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
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

    yield Session(step=lambda number: recorded.step(actions))
    recorded.close()


@contextmanager
def isaaclab_video_recorder(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
    """Isaac Lab's own recorder and all that it does; only the visualizer that it asks for pictures is this one."""
    from isaaclab.envs.utils.video_recorder import VideoRecorder  # type: ignore[import-not-found]
    from isaaclab.envs.utils.video_recorder_cfg import VideoRecorderCfg  # type: ignore[import-not-found]

    visualizer = SimpleNamespace(
        cfg=SimpleNamespace(visualizer_type="newton_gl"), render_rgb_array=env.render, supports_markers=lambda: False
    )
    # What it reads of an environment. Its poses are always up to date, so that nothing but drawing is charged.
    simulation = SimpleNamespace(visualizers=[visualizer], is_rendering=True)
    recorder = VideoRecorder(
        VideoRecorderCfg(
            source="visualizer",
            output_dir=str(folder),
            fps=plan.fps,
            video_length=plan.clip_steps,
            video_interval=plan.interval_steps,
            step_offset=plan.clip_starts[0],
        ),
        SimpleNamespace(sim=simulation, metadata=env.metadata),
    )

    def step(number: int) -> None:
        env.step(0)
        recorder.step()

    yield Session(step=step)
    recorder.close()


@contextmanager
def lerobot_streaming(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
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

    yield Session(step=step)
    encoder.close()


@contextmanager
def thread_and_queue(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
    """What one writes in an hour: a bounded queue, and a thread that encodes what comes out of it."""
    pictures: queue.Queue[Picture | None] = queue.Queue(maxsize=plan.queue_frames)
    encoder: threading.Thread | None = None

    def step(number: int) -> None:
        nonlocal pictures, encoder
        env.step(0)
        if not plan.is_captured(number):
            return
        if not plan.is_captured(number - 1):
            path = folder / f"clip-{number}.mp4"
            encoder = threading.Thread(target=_encode, args=(pictures, path, plan))
            encoder.start()
        try:
            pictures.put_nowait(env.render())
        except queue.Full:
            pass  # Lost; found when the clip is decoded.
        if plan.is_last_of_clip(number):
            pictures.put(None)

    def finish() -> None:
        if encoder:
            encoder.join()

    yield Session(step=step, finish=finish)


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
def ffmpeg_pipe(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
    program = find_ffmpeg()
    encoder: subprocess.Popen[bytes] | None = None

    def step(number: int) -> None:
        nonlocal encoder
        env.step(0)
        if not plan.is_captured(number):
            return
        if encoder is None:
            command = ffmpeg_command(program, plan, folder / f"clip-{number}.mp4", options=("-g", str(plan.fps)))
            encoder = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert encoder.stdin
        encoder.stdin.write(env.render().data)
        if plan.is_last_of_clip(number):
            encoder.stdin.close()
            encoder.wait()
            encoder = None

    yield Session(step=step)


def find_ffmpeg() -> str:
    """Return the path of the ffmpeg program: the system's, else the one that moviepy brings."""
    found = shutil.which("ffmpeg")
    if found is None:
        import imageio_ffmpeg  # type: ignore[import-untyped]

        found = imageio_ffmpeg.get_ffmpeg_exe()
    return str(found)


def ffmpeg_command(program: str, plan: Plan, path: Path, *, options: Sequence[str]) -> list[str]:
    """Return a command that encodes raw pictures from its standard input; `options` are the encoder's own."""
    command = [program, "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{plan.width}x{plan.height}", "-r", str(plan.fps), "-i", "pipe:0"]
    command += ["-c:v", "libx264", "-preset", plan.preset, "-crf", str(plan.crf), *options]
    # As stepreel has it: one thread, and colours as in BT.709, told to the player.
    command += ["-threads", "1", "-pix_fmt", "yuv420p", "-vf", "scale=out_color_matrix=bt709:out_range=tv"]
    command += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    return [*command, str(path)]


@contextmanager
def stepreel_pixels(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
    from stepreel.backends.gymnasium import GymnasiumBackend

    # Half a clip, as the others' queues.
    limits = {"queue_depth": plan.queue_frames, "queue_bytes": plan.queue_frames * plan.picture_nbytes}
    with _stepreel(plan, folder, GymnasiumBackend(env), lambda: env.step(0), **limits) as session:
        yield session


@contextmanager
def stepreel_snapshots(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
    from .snapshots import SnapshotBackend

    with _stepreel(plan, folder, SnapshotBackend(env, plan), lambda: env.step(0)) as session:
        yield session


@contextmanager
def stepreel_newton(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
    """The task of `stepreel demo` in place of the environment; drawing a picture takes what it takes."""
    from stepreel.backends.newton import NewtonBackend

    from .cart_poles import CartPoles

    simulation = CartPoles()
    backend = NewtonBackend(simulation.model, lambda: simulation.state, steps_per_second=plan.fps)
    with _stepreel(plan, folder, backend, simulation.step) as session:
        yield session


@contextmanager
def stepreel_mujoco(plan: Plan, env: PictureEnv, folder: Path) -> Iterator[Session]:
    """Gymnasium's humanoids in place of the environment; drawing a picture takes what it takes."""
    from stepreel.backends.gymnasium import choose_backend

    from .humanoids import Humanoids

    simulation = Humanoids()
    with _stepreel(plan, folder, choose_backend(simulation.recorded), simulation.step) as session:
        yield session


@contextmanager
def _stepreel(plan: Plan, folder: Path, backend: Any, train: Callable[[], object], **limits: int) -> Iterator[Session]:
    from stepreel import Recorder, RecorderConfig

    config = RecorderConfig(
        output_dir=folder,
        video_length=plan.clip_steps,
        video_interval=plan.interval_steps,
        step_offset=plan.clip_starts[0],
        width=plan.width,
        height=plan.height,
        fps=plan.fps,
        codec="libx264",
        preset=plan.preset,
        crf=plan.crf,
        **limits,
    )
    with Recorder(config, backend) as recorder:
        recorder.reset()

        def step(number: int) -> None:
            train()
            recorder.step()

        yield Session(step=step, finish=recorder.flush)


PEERS: dict[str, Peer] = {
    "drawn": Peer(title="no recorder, pictures thrown away", setup=draw_and_throw_away, records=False),
    "undrawn": Peer(title="no recorder, nothing drawn", setup=only_step, without="undrawn", records=False),
    "newton": Peer(
        title="no recorder, a Newton simulation",
        setup=only_step_newton,
        without="newton",
        modules=("newton", "warp"),
        environment="own",
        records=False,
    ),
    "mujoco": Peer(
        title="no recorder, MuJoCo simulations",
        setup=only_step_mujoco,
        without="mujoco",
        modules=("mujoco", "gymnasium.envs.mujoco"),
        environment="own",
        records=False,
    ),
    "drawn_loaded": Peer(
        title="no recorder, pictures copied once, an encoder beside it",
        setup=beside_load(draw_and_copy),
        modules=("stepreel", "av"),
        records=False,
    ),
    "undrawn_loaded": Peer(
        title="no recorder, nothing drawn, an encoder beside it",
        setup=beside_load(only_step),
        without="undrawn",
        modules=("stepreel", "av"),
        records=False,
    ),
    "newton_loaded": Peer(
        title="no recorder, a Newton simulation, an encoder beside it",
        setup=beside_load(only_step_newton),
        without="newton",
        modules=("newton", "warp", "stepreel", "av"),
        environment="own",
        records=False,
    ),
    "mujoco_loaded": Peer(
        title="no recorder, MuJoCo simulations, an encoder beside it",
        setup=beside_load(only_step_mujoco),
        without="mujoco",
        modules=("mujoco", "gymnasium.envs.mujoco", "stepreel", "av"),
        environment="own",
        records=False,
    ),
    "gymnasium": Peer(
        title="Gymnasium RecordVideo",
        setup=gymnasium_record_video,
        package="gymnasium",
        modules=("gymnasium.wrappers", "moviepy.video.io.ImageSequenceClip"),
        encodes_per_s=25.0,
    ),
    "stable_baselines3": Peer(
        title="Stable-Baselines3 VecVideoRecorder",
        setup=stable_baselines3,
        package="stable-baselines3",
        modules=("stable_baselines3.common.vec_env", "moviepy.video.io.ImageSequenceClip"),
        encodes_per_s=25.0,
    ),
    "isaaclab": Peer(
        title="Isaac Lab VideoRecorder",
        setup=isaaclab_video_recorder,
        package="isaaclab",
        modules=("isaaclab.envs.utils.video_recorder", "moviepy.editor"),
        environment="isaaclab",
        encodes_per_s=25.0,
    ),
    "lerobot": Peer(
        title="LeRobot StreamingVideoEncoder",
        setup=lerobot_streaming,
        package="lerobot",
        modules=("lerobot.datasets.video_utils", "lerobot.datasets.compute_stats"),
        environment="lerobot",
        encodes_per_s=25.0,
    ),
    "thread": Peer(title="a thread, a queue and PyAV", setup=thread_and_queue, package="av", modules=("av",)),
    "ffmpeg": Peer(title="the ffmpeg program over a pipe", setup=ffmpeg_pipe),
    "stepreel": Peer(title="stepreel, pixels", setup=stepreel_pixels, loaded="drawn_loaded", modules=("stepreel",)),
    "stepreel_snapshots": Peer(
        title="stepreel, snapshots",
        setup=stepreel_snapshots,
        without="undrawn",
        loaded="undrawn_loaded",
        modules=("stepreel",),
        encodes_per_s=4.0,
    ),
    "stepreel_newton": Peer(
        title="stepreel, snapshots of a Newton simulation",
        setup=stepreel_newton,
        without="newton",
        loaded="newton_loaded",
        modules=("stepreel", "newton", "warp"),
        environment="own",
        shows_steps=False,
        encodes_per_s=4.0,
    ),
    "stepreel_mujoco": Peer(
        title="stepreel, snapshots of a MuJoCo simulation",
        setup=stepreel_mujoco,
        without="mujoco",
        loaded="mujoco_loaded",
        modules=("stepreel", "mujoco", "gymnasium.envs.mujoco"),
        environment="own",
        shows_steps=False,
        encodes_per_s=2.0,
    ),
}
"""By key, in the order of the table."""
