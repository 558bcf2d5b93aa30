"""What became of the pictures: which are in the clips, and how like the originals they are."""

from __future__ import annotations

from collections.abc import Iterator
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
    """The clips of one run, decoded."""

    lost: int
    """Steps that were to be in a clip and are in none."""
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
            ratios.append(_psnr(_as_rgb(frame), scene, step))
    return Pictures(
        lost=len(wanted - set(shown)),
        doubled=len(shown) - len(wanted & set(shown)),
        nbytes=sum(path.stat().st_size for path in files),
        psnr_mean_db=float(np.mean(ratios)) if ratios else None,
        psnr_worst_db=min(ratios) if ratios else None,
    )


def _frames(files: list[Path]) -> Iterator[Any]:
    for path in files:
        with av.open(str(path)) as container:
            yield from container.decode(video=0)


def _as_rgb(frame: Any) -> Picture:
    """Convert by what the file says of its colours; one that says nothing is converted as it was written, by BT.601."""
    colors = "ITU709" if frame.colorspace == _BT709 else "ITU601"
    rgb: Picture = frame.to_ndarray(
        format="rgb24", src_colorspace=colors, src_color_range="MPEG", dst_color_range="JPEG"
    )
    return rgb


def _psnr(decoded: Picture, scene: Scene, step: int) -> float:
    """Return the peak signal-to-noise ratio [dB] of a picture."""
    original = np.empty_like(decoded)
    scene.draw(step, original)
    error = float(np.mean((decoded.astype(np.float32) - original) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
