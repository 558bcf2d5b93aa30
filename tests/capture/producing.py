"""A producer without a service: the test reads its journal, and publishes room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stepreel import DropCause, RecorderConfig
from stepreel.capture.producer import Producer
from stepreel.capture.stream import open_streams
from stepreel.clip import CaptureRequest, Frame
from stepreel.interfaces import Backend, CaptureFormat, Slot
from stepreel.transport.journal import CAUSES, JournalReader, Kind, Record, ReleaseWriter
from stepreel.transport.messages import Trouble, decode
from stepreel.transport.shared_memory import ServiceWord, SharedMemory

from ..memory import make_memory

Capture = Callable[[CaptureRequest, Slot], Any]


class ScriptedBackend:
    """Captures what it is told to, and says what it is told to of itself."""

    name = "scripted"

    def __init__(self, capture: Capture, **said: Any) -> None:
        self._capture = capture
        self._said = said
        self.is_open = False

    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        self.is_open = True
        return CaptureFormat(**{"width": None, "height": None, "nbytes": None, "steps_per_second": None, **self._said})

    def capture(self, request: CaptureRequest, slot: Slot) -> Any:
        return self._capture(request, slot)

    def close(self) -> None:
        self.is_open = False


def picture(height: int = 8, width: int = 8) -> Capture:
    """Return what captures one colour, different from step to step."""

    def capture(request: CaptureRequest, slot: Slot) -> Frame:
        frame = Frame(height=height, width=width)
        slot.array(frame.nbytes)[:] = request.step % 256
        return frame

    return capture


class Producing:
    """A producer, and what there is of a service.

    Attributes:
        records: All that was told so far.
    """

    def __init__(self, config: RecorderConfig, backend: Backend, memory: SharedMemory) -> None:
        self.memory = memory
        self.streams = open_streams(config, backend)
        self.producer = Producer(config, self.streams, memory)
        self.records: list[Record] = []
        self._reader = JournalReader(memory)
        self._releases = ReleaseWriter(memory)
        self._settled = 0

    def read(self) -> list[Record]:
        """Return what was told since the last call."""
        records = self._reader.read()
        self.memory.service[ServiceWord.RETAINED] = self._reader.position
        self.records += records
        return records

    @property
    def frames(self) -> list[Record]:
        """The captures that were told of, in order."""
        self.read()
        return [record for record in self.records if record.kind == Kind.FRAME]

    @property
    def dropped(self) -> dict[int, DropCause]:
        """Causes of the steps that were dropped."""
        self.read()
        drops = [record for record in self.records if record.kind == Kind.FRAMES_DROPPED]
        return {
            step: CAUSES[record.height] for record in drops for step in range(record.step, record.pts + 1, record.width)
        }

    @property
    def troubles(self) -> list[Trouble]:
        """What was to be logged."""
        self.read()
        return [decode(record.text, Trouble) for record in self.records if record.kind == Kind.TROUBLE]

    def settle(self, count: int | None = None) -> None:
        """Take, and be done with, the captures that wait: the first `count` of them, or all."""
        frames = self.frames
        end = len(frames) if count is None else self._settled + count
        for frame in frames[self._settled : end]:
            self._releases.write(frame.number, 0)
            self.memory.service[ServiceWord.FRAME_NBYTES_TAKEN] += frame.nbytes
            self.memory.service[ServiceWord.FRAMES_TAKEN] += 1
            self._settled += 1

    @property
    def is_pool_whole(self) -> bool:
        """Whether no capture holds any memory."""
        pool = self.producer._pool
        return pool.has_room(pool.nbytes)


@contextmanager
def producing(
    backend: Backend, *, pool_nbytes: int = 2**20, video_interval: int = 0, **settings: Any
) -> Iterator[Producing]:
    """Yield a producer of one clip of many steps."""
    config = RecorderConfig(output_dir="unused", **{"video_length": 1000, **settings}, video_interval=video_interval)
    with make_memory(pool_nbytes=pool_nbytes, queue_nbytes=settings.get("queue_bytes")) as memory:
        yield Producing(config, backend, memory)
