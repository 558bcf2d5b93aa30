"""`Plan`: what every recorder of a comparison is put through."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

DEFAULT_CRF = 23


class Phase(StrEnum):
    """What the training loop does at a step."""

    WARMUP = "warmup"
    REST = "rest"
    """Nothing is drawn, and no recorder has anything left to do."""
    BASELINE = "baseline"
    """Pictures are drawn and thrown away, as often as a clip captures them; none where a clip draws none."""
    CLIP = "clip"
    """Every step is captured."""
    GAP = "gap"
    """Nothing is drawn, while a recorder may still be busy with the clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A training loop: rest, baseline, clip, gap, as often as there are clips, and at the end rest and baseline.

    So every clip has a baseline before it and one behind it, and every gap a rest on either side.
    """

    width: int
    """Pixels."""
    height: int
    clip_count: int
    clip_steps: int
    """Steps of a clip, each of them captured, and of a baseline."""
    gap_steps: int
    """Steps of a gap, and of a rest."""
    warmup_steps: int
    """Steps before the first rest."""
    step_units: int
    """Work of one step of the simulator, see `workload.Work`."""
    draw_units: int
    """Work of drawing one picture on the training thread, besides copying it."""
    snapshot_draw_units: int
    """Work of drawing one snapshot, wherever it is drawn."""
    fps: int = 30
    crf: int = DEFAULT_CRF
    preset: str = "superfast"

    @property
    def interval_steps(self) -> int:
        """Steps from the start of one clip to the start of the next."""
        return 2 * (self.clip_steps + self.gap_steps)

    @property
    def rest_starts(self) -> list[int]:
        """One more than there are clips."""
        return [self.warmup_steps + number * self.interval_steps for number in range(self.clip_count + 1)]

    @property
    def baseline_starts(self) -> list[int]:
        """One more than there are clips."""
        return [start + self.gap_steps for start in self.rest_starts]

    @property
    def clip_starts(self) -> list[int]:
        return [start + self.clip_steps for start in self.baseline_starts[: self.clip_count]]

    @property
    def step_count(self) -> int:
        return self.baseline_starts[-1] + self.clip_steps

    @property
    def queue_frames(self) -> int:
        """Pictures that a recorder's queue may hold: half a clip."""
        return max(2, self.clip_steps // 2)

    @property
    def picture_nbytes(self) -> int:
        return self.width * self.height * 3

    def phase(self, step: int) -> Phase:
        """Return what the loop does at a step, which may also lie before the first or behind the last."""
        if step < self.warmup_steps:
            return Phase.WARMUP
        place = (step - self.warmup_steps) % self.interval_steps
        if place < self.gap_steps:
            return Phase.REST
        if place < self.gap_steps + self.clip_steps:
            return Phase.BASELINE
        return Phase.CLIP if place < self.gap_steps + 2 * self.clip_steps else Phase.GAP

    def is_captured(self, step: int) -> bool:
        return step < self.step_count and self.phase(step) is Phase.CLIP

    def is_last_of_clip(self, step: int) -> bool:
        return self.is_captured(step) and not self.is_captured(step + 1)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Plan:
        return cls.from_json(json.loads(path.read_text()))

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Plan:
        return cls(**found)
