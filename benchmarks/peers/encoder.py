"""Encoding alone: stepreel's worker against the ffmpeg program, with the same frames and the same settings.

`python -m peers.encoder WHO WIDTH HEIGHT FRAMES CRF PRESET GOP_S RESULT` is the process that hands one of them its
frames.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import av
import numpy as np

from .pictures import as_rgb, psnr_db
from .plan import DEFAULT_CRF, Plan
from .processes import ended_children_cpu_s, run_program
from .recorders import ffmpeg_command, find_ffmpeg
from .row_settings import RowSettings, plan_of_one_clip
from .workload import Picture, PictureEnv, Scene

_FIRST, _COUNTED = 100, 300
"""Frames of the short clip, and how many more the long one has: these are free of what starting a program costs."""
_CURVE_FRAMES = 250
_CURVE_CRFS = (14, 17, 20, 23, 26, 29, 32)
_PRESET, _GOP_S = "superfast", 1.0
_SLOWER_PRESET, _LONGER_GOP_S = "medium", 10.0
"""What the other recorders use: their preset, and a keyframe now and then instead of each second."""
_SLOWER_CRFS = (20, 23, 26)
_COMPARE_EVERY = 10


def measure(settings: RowSettings) -> dict[str, Any]:
    """Return frames a CPU-second, PSNR and bytes of both, and what stepreel makes of other qualities."""
    runs = [
        {who: _difference(who, settings) for who in order}
        for order in (("stepreel", "ffmpeg"), ("ffmpeg", "stepreel")) * settings.repetitions
    ][: settings.repetitions]
    curve = [_quality(settings, crf, _PRESET, _GOP_S) for crf in _CURVE_CRFS]
    slower = [
        _quality(settings, crf, preset, gop_s)
        for preset, gop_s in ((_SLOWER_PRESET, _GOP_S), (_PRESET, _LONGER_GOP_S), (_SLOWER_PRESET, _LONGER_GOP_S))
        for crf in _SLOWER_CRFS
    ]
    ratios = [run["stepreel"]["frames_per_cpu_s"] / run["ffmpeg"]["frames_per_cpu_s"] for run in runs]
    return {
        "frames": settings.frames(_COUNTED),
        "size": [settings.width, settings.height],
        "crf": DEFAULT_CRF,
        "ffmpeg": _ffmpeg_version(),
        "runs": runs,
        "ratio": median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "curve": curve,
        "slower": slower,
    }


def _quality(settings: RowSettings, crf: int, preset: str, gop_s: float) -> dict[str, Any]:
    arguments = _arguments("stepreel", settings, settings.frames(_CURVE_FRAMES), crf, preset, gop_s)
    return {"crf": crf, "preset": preset, "gop_s": gop_s, **run_program("encoder", *arguments)}


def _difference(who: str, settings: RowSettings) -> dict[str, Any]:
    first, counted = settings.frames(_FIRST), settings.frames(_COUNTED)
    few, many = (
        run_program("encoder", *_arguments(who, settings, count, DEFAULT_CRF)) for count in (first, first + counted)
    )
    return {**many, "frames_per_cpu_s": counted / (many["cpu_s"] - few["cpu_s"])}


def _arguments(
    who: str, settings: RowSettings, frames: int, crf: int, preset: str = _PRESET, gop_s: float = _GOP_S
) -> tuple[object, ...]:
    return who, settings.width, settings.height, frames, crf, preset, gop_s


def _ffmpeg_version() -> str:
    told = subprocess.run([find_ffmpeg(), "-version"], capture_output=True, text=True, check=True).stdout
    return told.split()[2]


def main() -> None:
    who, width, height, frames, crf, preset, gop_s, result = sys.argv[1:]
    plan = replace(plan_of_one_clip(int(width), int(height), int(frames), crf=int(crf)), preset=preset)
    with tempfile.TemporaryDirectory(prefix="stepreel-bench-") as folder:
        _ENCODERS[who](plan, Path(folder), float(gop_s))
        found = {"frames": plan.clip_steps, "cpu_s": ended_children_cpu_s(), **_examine(Path(folder), plan)}
    Path(result).write_text(json.dumps(found))


def _by_stepreel(plan: Plan, folder: Path, gop_s: float) -> None:
    from stepreel import DropPolicy, Recorder, RecorderConfig
    from stepreel.backends.gymnasium import GymnasiumBackend

    env = PictureEnv(plan)
    config = RecorderConfig(
        output_dir=folder,
        video_length=plan.clip_steps,
        video_interval=0,
        width=plan.width,
        height=plan.height,
        fps=plan.fps,
        codec="libx264",
        preset=plan.preset,
        crf=plan.crf,
        gop_s=gop_s,
        queue_depth=8,
        drop_policy=DropPolicy.BLOCK,
        block_timeout_s=600,
    )
    with Recorder(config, GymnasiumBackend(env)) as recorder:
        for _ in range(plan.clip_steps):
            env.step(0)
            recorder.step()


def _by_ffmpeg(plan: Plan, folder: Path, gop_s: float) -> None:
    # What stepreel tells libx264 and the scaler, see `stepreel.encoders.codecs`: nothing held back inside, keyframes
    # a frame closer than `gop_s`.
    distance = round(gop_s * plan.fps) - 1
    options = ("-tune", "zerolatency", "-bf", "0", "-g", str(distance), "-sws_flags", "area")
    command = ffmpeg_command(find_ffmpeg(), plan, folder / "clip.mp4", options=options)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as program:
        assert program.stdin
        for picture in _pictures(plan):
            program.stdin.write(picture.data)
    if program.returncode:
        raise subprocess.CalledProcessError(program.returncode, command)


_ENCODERS = {"stepreel": _by_stepreel, "ffmpeg": _by_ffmpeg}


def _pictures(plan: Plan) -> Iterator[Picture]:
    scene = Scene(plan.width, plan.height)
    picture = np.empty((plan.height, plan.width, 3), np.uint8)
    for step in range(plan.clip_steps):
        scene.draw(step, picture)
        yield picture


def _examine(folder: Path, plan: Plan) -> dict[str, Any]:
    """Return size and likeness of the one clip in a folder, whose frames are all there."""
    (path,) = folder.glob("*.mp4")
    scene = Scene(plan.width, plan.height)
    ratios = []
    with av.open(str(path)) as container:
        for step, frame in enumerate(container.decode(video=0)):
            if step % _COMPARE_EVERY == 0:
                ratios.append(psnr_db(as_rgb(frame), scene, step))
    return {"nbytes": path.stat().st_size, "psnr_mean_db": mean(ratios), "psnr_worst_db": min(ratios)}


if __name__ == "__main__":
    main()
