"""A simulator that is recorded by snapshots, whose pictures take far longer to draw than a step takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stepreel.clip import CaptureRequest, Snapshot
from stepreel.interfaces import CaptureFormat, Slot

from .plan import Plan
from .workload import PictureEnv, Scene, Work

_NBYTES = 8


class SnapshotBackend:
    """Captures the step that the environment is at; a worker draws it, with the work that the plan says."""

    name = "benchmark"

    def __init__(self, env: PictureEnv, plan: Plan) -> None:
        self._env = env
        self._plan = plan

    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        return CaptureFormat(
            width=self._plan.width,
            height=self._plan.height,
            nbytes=_NBYTES,
            steps_per_second=self._plan.fps,
            renderer=SceneRenderer(self._plan),
        )

    def capture(self, request: CaptureRequest, slot: Slot) -> Snapshot:
        slot.array(_NBYTES).view(np.int64)[0] = self._env.shown_step
        return Snapshot(nbytes=_NBYTES)

    def close(self) -> None:
        """Nothing was taken."""


class SceneRenderer:
    """Draws the same pictures as `PictureEnv`."""

    name = "benchmark"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def open(self) -> None:
        self._scene = Scene(self._plan.width, self._plan.height)
        self._work = Work(self._plan.snapshot_draw_units)
        self._picture = np.empty((self._plan.height, self._plan.width, 3), np.uint8)

    def render(self, snapshot: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self._work.run()
        self._scene.draw(int(snapshot.view(np.int64)[0]), self._picture)
        return self._picture

    def close(self) -> None:
        """Memory goes with the process."""
