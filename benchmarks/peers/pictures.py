"""What became of the pictures: which are in the clips, and how like the originals they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from .plan import Plan
from .workload import Picture, Scene, read_step

_BT709 = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The clips of one run."""

    lost: int
    """Steps that were to be in a clip and are in none."""
    lost_in_a_row: int
    """Most of them that follow one another."""
    doubled: int
    """Pictures of a step that was there already, or that was not to be in any."""
    nbytes: int
    psnr_mean_db: float | None
    """Of every so many pictures, against what was drawn, as RGB; None where it was not asked for."""
    psnr_worst_db: float | None


def examine(folder: Path, plan: Plan, *, compare_every: int | None) -> Pictures:
    """Decode all clips in a folder, and compare every so many of their pictures with the originals."""
    wanted = {step for step in range(plan.step_count) if plan.is_captured(step)}
    scene = Scene(plan.width, plan.height)
    shown: list[int] = []
    ratios: list[float] = []
    files = sorted(folder.rglob("*.mp4"))
    for number, frame in enumerate(_frames(files)):
        step = read_step(frame.to_ndarray(format="gray"))
        shown.append(step)
        if compare_every and number % compare_every == 0:
            ratios.append(psnr_db(as_rgb(frame), scene, step))
    return Pictures(
        lost=len(wanted - set(shown)),
        lost_in_a_row=longest_row(wanted - set(shown)),
        doubled=len(shown) - len(wanted & set(shown)),
        nbytes=sum(path.stat().st_size for path in files),
        psnr_mean_db=float(np.mean(ratios)) if ratios else None,
        psnr_worst_db=min(ratios) if ratios else None,
    )


def read_manifests(folder: Path) -> Pictures:
    """Return what stepreel's own manifests say of clips whose pictures don't tell their step."""
    clips = [json.loads(path.read_text()) for path in folder.glob("*-step-*.json")]
    missing = {
        step for clip in clips for first, end in clip["frames"]["missing_steps"] for step in range(first, end + 1)
    }
    return Pictures(
        lost=sum(clip["frames"]["requested"] - clip["frames"]["encoded"] for clip in clips),
        lost_in_a_row=longest_row(missing),
        doubled=0,
        nbytes=sum(path.stat().st_size for path in folder.glob("*.mp4")),
        psnr_mean_db=None,
        psnr_worst_db=None,
    )


def longest_row(steps: Iterable[int]) -> int:
    """Return how many of the steps follow one another at most."""
    longest = length = 0
    before: int | None = None
    for step in sorted(steps):
        length = length + 1 if before is not None and step == before + 1 else 1
        longest = max(longest, length)
        before = step
    return longest


def psnr_db(decoded: Picture, scene: Scene, step: int) -> float:
    """Return the peak signal-to-noise ratio of a picture against what was drawn [dB]."""
    original = np.empty_like(decoded)
    scene.draw(step, original)
    error = float(np.mean((decoded.astype(np.float32) - original) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def as_rgb(frame: Any) -> Picture:
    """Convert by what the file says of its colours; one that says nothing is converted as it was written, by BT.601."""
    colors = "ITU709" if frame.colorspace == _BT709 else "ITU601"
    rgb: Picture = frame.to_ndarray(
        format="rgb24", src_colorspace=colors, src_color_range="MPEG", dst_color_range="JPEG"
    )
    return rgb


def _frames(files: list[Path]) -> Iterator[Any]:
    for path in files:
        with av.open(str(path)) as container:
            yield from container.decode(video=0)
