"""The pool's memory: taken up as captures need it, given back when nothing is recorded, held back where it is short."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import numpy as np
import pytest

from stepreel import DropPolicy, Recorder, RecorderConfig
from stepreel.available_memory import AvailableMemory
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.scheduling.frame_queue import FrameQueue
from stepreel.service import pool_memory
from stepreel.service.pool_memory import PoolMemory
from stepreel.service.threads import Threads
from stepreel.service.waking import Notifier
from stepreel.transport.journal import JournalReader, Kind, ReleaseWriter
from stepreel.transport.shared_memory import ServiceWord, SharedMemory, TrainingWord

from ..capture.producing import ScriptedBackend, picture, producing
from ..recordings import check_clip, poll_until

SIDE = 512
FRAME_NBYTES = SIDE * SIDE * 3


def resident_nbytes(recorder: Recorder) -> int:
    """Return what of a recorder's shared memory the system has pages for."""
    return os.fstat(recorder._core.memory.fd).st_blocks * 512


def test_memory_grows_with_what_waits_and_goes_back_after_the_clip(output_dir: Path) -> None:
    count = 200
    config = RecorderConfig(output_dir=output_dir, video_length=count, video_interval=0)
    backend = SyntheticBackend(width=SIDE, height=SIDE)
    with Recorder(config, backend) as recorder:
        before = resident_nbytes(recorder)
        assert recorder.statistics().queue_limit_nbytes > count * FRAME_NBYTES
        for _ in range(count):
            recorder.step()
        assert recorder.flush(60.0)
        assert resident_nbytes(recorder) > before
        grown = recorder.statistics().memory_nbytes
        poll_until(lambda: recorder.statistics().memory_nbytes < grown, 30.0)
        poll_until(lambda: resident_nbytes(recorder) <= before + 2**20)
        recorder.start_clip("again", length=count)
        for _ in range(count):
            recorder.step()
    for clip in recorder.summary().clips:
        assert clip.frames.encoded == count
        check_clip(output_dir, clip)


@dataclass
class PlayedService:
    """What of a service the pool's memory has to do with: reads the journal, and looks at the bytes of each frame."""

    memory: SharedMemory
    queue_nbytes: int = 2**20
    queue: FrameQueue[Any] = field(init=False)
    renewals: list[tuple[int, int]] = field(default_factory=list)
    used_nbytes: int = 0
    capture_nbytes: int = 0
    open_clips: int = 0
    spoilt: list[int] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = FrameQueue(depth=100, nbytes=self.queue_nbytes, policy=DropPolicy.THIN)
        self.reader = JournalReader(self.memory)
        self._releases = ReleaseWriter(self.memory)

    @property
    def is_read(self) -> bool:
        return self.reader.position == self.reader.head

    @property
    def holds_nothing(self) -> bool:
        return self.open_clips == 0

    def read(self) -> None:
        for record in self.reader.read():
            self.memory.service[ServiceWord.RETAINED] = self.reader.position
            self.open_clips += (record.kind == Kind.CLIP_BEGAN) - (record.kind == Kind.CLIP_ENDED)
            if record.kind == Kind.FRAME:
                found = np.frombuffer(self.memory.view, np.uint8)[record.offset : record.offset + record.nbytes]
                if not (found == record.step % 255 + 1).all():
                    self.spoilt.append(record.step)
                self.used_nbytes = max(self.used_nbytes, record.offset + record.nbytes)
                self._releases.write(record.number, 0)
                self.memory.service[ServiceWord.FRAMES_TAKEN] += 1
                self.memory.service[ServiceWord.FRAME_NBYTES_TAKEN] += record.nbytes

    def pool_memory(self) -> PoolMemory:
        description: Any = SimpleNamespace(queue_bytes=self.queue_nbytes, sources=[], ring_s=None)
        played: Any = self
        log: Any = SimpleNamespace(warning=lambda event, **facts: self.log.append({"event": event, **facts}))
        return PoolMemory(description, self.memory, played, played, Notifier(), Threads(), log)


def test_nothing_is_taken_away_that_training_writes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_memory, "_KEPT_S", 0.0)
    monkeypatch.setattr(pool_memory, "_LOOK_S", 0.001)
    monkeypatch.setattr(pool_memory, "_LEASE_S", 0.01)
    monkeypatch.setattr(pool_memory, "_AHEAD_FRAMES", 2)
    is_over = threading.Event()

    async def serve(played: PlayedService) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(played.pool_memory().run)
            while not (is_over.is_set() and played.is_read):
                played.read()
                await anyio.sleep(0.002)
            tasks.cancel_scope.cancel()

    def capture(request: Any, slot: Any) -> Any:
        made = picture(64, 64)(request, slot)
        slot.array(made.nbytes)[:] = request.step % 255 + 1
        return made

    given_back = 0
    with producing(ScriptedBackend(capture), pool_nbytes=2**21, video_length=1) as of:
        played = PlayedService(of.memory)
        service = threading.Thread(target=partial(anyio.run, serve, played))
        service.start()
        rng = np.random.default_rng(0)
        for clip in range(60):
            of.producer.start_clip(f"clip-{clip}", int(rng.integers(5, 60)))
            last = of.memory.service[ServiceWord.POPULATED]
            for _ in range(80):
                of.producer.step()
            threading.Event().wait(float(rng.choice([0.0, 0.005, 0.02, 0.05])))
            given_back += of.memory.service[ServiceWord.POPULATED] < last
        of.producer.close()
        is_over.set()
        service.join(20.0)
        assert not service.is_alive()
        assert played.spoilt == []
        assert given_back > 0
        assert of.memory.training[TrainingWord.CLIPS_OPEN] == 0


async def test_where_the_machine_has_no_memory_left_training_is_held_to_what_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = AvailableMemory(nbytes=2**30, bound_by="cgroup")
    monkeypatch.setattr(pool_memory, "available_memory", lambda: left)
    monkeypatch.setattr(pool_memory, "_AHEAD_FRAMES", 4)
    with producing(ScriptedBackend(picture(64, 64)), pool_nbytes=2**20, video_length=1000) as of:
        played = PlayedService(of.memory)
        played.capture_nbytes = 64 * 64 * 3
        pool = played.pool_memory()
        await pool.populate()
        assert of.memory.service[ServiceWord.POOL_LIMIT] == 0
        populated = of.memory.service[ServiceWord.POPULATED]
        assert populated == of.memory.layout.pool + 4 * 12288
        left = AvailableMemory(nbytes=5, bound_by="cgroup")
        played.used_nbytes = populated
        await pool.populate()
        await pool.populate()
        assert of.memory.service[ServiceWord.POPULATED] == populated
        assert [line["event"] for line in played.log] == ["memory.short"]
        assert played.queue.nbytes_limit == 3 * 12288
        for _ in range(10):
            of.producer.step()
        assert len(of.frames) == 4
        left = AvailableMemory(nbytes=2**30, bound_by="cgroup")
        await pool.populate()
        assert (of.memory.service[ServiceWord.POOL_LIMIT], played.queue.nbytes_limit) == (0, played.queue_nbytes)
        for _ in range(3):
            of.producer.step()
        assert len(of.frames) == 7
