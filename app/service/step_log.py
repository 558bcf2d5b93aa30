"""The step log: how many steps a run had taken at moments some time apart, in `session-pace.json`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from ..errors import describe
from ..storage.files import replace_whole
from ..storage.step_counts import SCHEMA, step_counts_file
from .session_log import SessionLog, now_iso
from .threads import Threads

_MOST_SAMPLES = 2048
_INTERVAL_S = 0.25
_WRITE_S = 5.0


class StepLog:
    """Looks at a step count now and then, and keeps the file. For one task of the service's event loop.

    Training pays nothing for it: the count is in the shared memory anyway. Of at most 2048 samples every second one is
    let go when there is no more room, and from then on half as many are taken.

    Args:
        folder: Output folder.
        count_steps: Returns the number of steps so far.
        log: Hears of a file that can't be written.
        threads: Where files are written.
    """

    def __init__(self, folder: Path, count_steps: Callable[[], int], log: SessionLog, threads: Threads) -> None:
        self._path = folder / step_counts_file(log.stem)
        self._count_steps = count_steps
        self._log = log
        self._threads = threads
        self._started_at = now_iso()
        self._start_s = time.monotonic()
        self._interval_s = _INTERVAL_S
        self._samples: list[str] = []

    async def run(self) -> None:
        """Take samples until cancelled, and then the last one."""
        written_s = -math.inf
        try:
            while True:
                self._sample()
                if time.monotonic() - written_s >= _WRITE_S:
                    await self._write()
                    written_s = time.monotonic()
                await anyio.sleep(self._interval_s)
        finally:
            self._sample()
            with anyio.CancelScope(shield=True):
                await self._write()

    def _sample(self) -> None:
        if len(self._samples) >= _MOST_SAMPLES:
            del self._samples[1::2]
            self._interval_s *= 2
        self._samples.append(f"[{time.monotonic() - self._start_s:.3f}, {self._count_steps()}]")

    async def _write(self) -> None:
        text = (
            f'{{"schema": {SCHEMA}, "started_at": "{self._started_at}", "interval_s": {self._interval_s}, '
            f'"samples": [{", ".join(self._samples)}]}}\n'
        )
        try:
            await self._threads.run(replace_whole, self._path, text.encode())
        except OSError as exc:
            self._log.trouble("pace.not_written", kind=type(exc).__name__, error=describe(exc))
