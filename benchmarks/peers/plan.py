"""`Plan`: what every recorder of a comparison is put through."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A training loop: so many steps, and clips at the same places for every recorder."""

    width: int
    """Pixels."""
    height: int
    clip_count: int
    clip_steps: int
    """Steps of a clip; each of them is captured."""
    interval_steps: int
    """Steps from the start of one clip to the start of the next."""
    warmup_steps: int
    """Steps before the first clip."""
    step_units: int
    """Work of one step of the simulator, see `workload.Work`."""
    draw_units: int
    """Work of drawing one picture on the training thread, besides copying it."""
    snapshot_draw_units: int
    """Work of drawing one snapshot, wherever it is drawn."""
    fps: int = 30
    crf: int = 23
    preset: str = "superfast"

    @property
    def clip_starts(self) -> list[int]:
        return [self.warmup_steps + number * self.interval_steps for number in range(self.clip_count)]

    @property
    def step_count(self) -> int:
        return self.warmup_steps + self.clip_count * self.interval_steps

    @property
    def queue_frames(self) -> int:
        """Pictures that a recorder's queue may hold: half a clip."""
        return max(2, self.clip_steps // 2)

    @property
    def picture_nbytes(self) -> int:
        return self.width * self.height * 3

    def is_captured(self, step: int) -> bool:
        return step >= self.warmup_steps and (step - self.warmup_steps) % self.interval_steps < self.clip_steps

    def is_last_of_clip(self, step: int) -> bool:
        return self.is_captured(step) and not self.is_captured(step + 1)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Plan:
        return cls(**json.loads(path.read_text()))
