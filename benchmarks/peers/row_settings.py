"""`RowSettings`: what all rows besides step times are told."""

from __future__ import annotations

from dataclasses import dataclass

from .plan import DEFAULT_CRF, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSettings:
    """How large and how long."""

    repetitions: int
    scale: float
    """Share of the full length; less than 1 is for trying."""
    width: int
    """Pixels, of the rows that have no size of their own: those of the comparison."""
    height: int

    def frames(self, count: int) -> int:
        """Return a number of frames, scaled."""
        return max(10, round(count * self.scale))


def plan_of_one_clip(width: int, height: int, frames: int, *, step_units: int = 0, crf: int = DEFAULT_CRF) -> Plan:
    """Return a plan that is one clip, without baselines, whose pictures cost nothing besides the copying."""
    return Plan(
        width=width,
        height=height,
        clip_count=1,
        clip_steps=frames,
        gap_steps=0,
        warmup_steps=0,
        step_units=step_units,
        draw_units=0,
        snapshot_draw_units=0,
        crf=crf,
    )
