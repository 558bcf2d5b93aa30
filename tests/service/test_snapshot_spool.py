"""The snapshot spool alone: what it has taken is in the file, whoever writes and closes at the same time."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import anyio
import pytest

from stepreel import DropCause
from stepreel.service import snapshot_spool
from stepreel.service.accounting import ClipProgress
from stepreel.service.lifecycle import Life, Wanted
from stepreel.service.session_log import SessionLog
from stepreel.service.snapshot_spool import SnapshotSpool
from stepreel.service.threads import Threads
from stepreel.service.work import ClipWork, Frame


class SlowWriter:
    """Takes its time, and is never closed while it writes."""

    written: ClassVar[dict[str, list[int]]] = {}

    def __init__(self, folder: Path, about: Any, members: Any) -> None:
        self._steps = self.written.setdefault(about, [])
        self._is_at_work = False

    def append(self, step: int, data: memoryview) -> None:
        self._is_at_work = True
        time.sleep(0.002)
        assert bytes(data) == bytes([step] * 8)
        self._steps.append(step)

    def flush(self) -> None:
        time.sleep(0.01)
        self._is_at_work = False

    def close(self, kept: Collection[int]) -> list[int]:
        assert not self._is_at_work
        return [step for step in self._steps if step in set(kept)]

    discard = abandon = flush


class Spool:
    """A spool, and what it holds of frames."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        description: Any = SimpleNamespace(path=folder, durable_snapshots=durable, queue_bytes=10**6, min_free_bytes=0)
        sources: Any = {("default", 0): SimpleNamespace(archive=SimpleNamespace(members=()))}
        self.let_go: list[int] = []
        self.spool = SnapshotSpool(
            description,
            sources,
            bytes_of=lambda frame: memoryview(bytes([frame.step] * frame.nbytes)),
            let_go=lambda frame: self.let_go.append(frame.step),
            log=SessionLog(folder, "session", lambda event: None),
            threads=Threads(),
        )
        self.works = [self._work(index) for index in range(2)]

    def _work(self, index: int) -> ClipWork:
        progress = ClipProgress(
            index=index, name=f"clip-{index}", stream="default", backend="b", start_step=0, frame_stride=1, fps=30.0
        )
        progress.is_named = True
        return ClipWork(progress=progress, life=Life(wanted=Wanted.YES), version=0)

    def drop(self, clip: int, step: int) -> None:
        """Have a frame captured that nobody draws."""
        work = self.works[clip]
        frame = Frame(number=clip * 1000 + step, clip=clip, step=step, pts=step, offset=0, nbytes=8, height=0, width=0)
        work.progress.frame_requested(step)
        self.spool.captured(work, frame)
        work.progress.frame_dropped(step, DropCause.NOT_RENDERED)
        self.spool.dropped(work, frame, DropCause.NOT_RENDERED)


@pytest.mark.parametrize("durable", [True, False])
async def test_a_clip_that_is_closed_while_another_task_writes_keeps_all(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_spool, "SnapshotWriter", SlowWriter)
    monkeypatch.setattr(SnapshotSpool, "_about", lambda self, work: work.progress.name)
    monkeypatch.setattr(SlowWriter, "written", {})
    of = Spool(tmp_path, durable=durable)
    spool = of.spool
    closed: dict[int, Any] = {}

    async def write_again_and_again() -> None:
        while len(closed) < len(of.works):
            await spool.write()
            await anyio.sleep(0.001)

    async def capture_and_close(clip: int) -> None:
        for step in range(40):
            of.drop(clip, step)
            if step % 7 == 0:
                await anyio.sleep(0.003)
        closed[clip] = await spool.close(of.works[clip])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write_again_and_again)
        tasks.start_soon(write_again_and_again)
        for clip in range(len(of.works)):
            tasks.start_soon(capture_and_close, clip)
    assert closed == {0: [*range(40)], 1: [*range(40)]}
    assert sorted(of.let_go) == sorted([*range(40)] * 2)
    assert not spool.held
    assert not spool.has_waiting
