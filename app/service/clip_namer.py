"""File names for clips: each reserved by a file, before a worker may hear of the clip."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..clip import DropCause
from ..errors import OutputError
from ..storage.manifest import reserve_name
from ..transport.messages import ServiceDescription
from .accounting import RingProgress
from .lifecycle import Event
from .recording import Recording
from .records import Records
from .session_log import SessionLog
from .threads import Threads
from .work import ClipWork


class ClipNamer:
    """Names clips, one after the other.

    Args:
        description: Says where the clips go.
        recording: The clips in work.
        records: Write a clip's first manifest.
        log: Hears of clips that have a name, and of those that can't have one.
        threads: What blocks runs here.
        lost: Called with why frames were lost.

    Attributes:
        named: Called before a worker may hear of a clip by its name: a service that takes over must know it.
    """

    def __init__(
        self,
        description: ServiceDescription,
        recording: Recording,
        records: Records,
        log: SessionLog,
        threads: Threads,
        *,
        lost: Callable[[str], None],
    ) -> None:
        self.named: Callable[[], None] = _nothing
        self._folder = description.path
        self._recording = recording
        self._records = records
        self._log = log
        self._threads = threads
        self._lost = lost
        self._unnamed: deque[ClipWork] = deque()

    @property
    def is_done(self) -> bool:
        """Whether every clip has a name that is to have one."""
        return not self._unnamed

    def want_name(self, work: ClipWork) -> None:
        """Have a clip named with the next call of `name_clips`."""
        work.awaits_name = True
        self._unnamed.append(work)

    async def name_clips(self) -> None:
        """Take a file name, that no other clip has, for each clip that is to have one."""
        while self._unnamed:
            work = self._unnamed[0]
            await self._name(work)
            self._unnamed.popleft()
            work.awaits_name = False
            if isinstance(work.progress, RingProgress):
                work.life.on(Event.ENDS)

    async def _name(self, work: ClipWork) -> None:
        progress = work.progress
        if progress.is_named:
            return
        try:
            progress.name = await self._threads.run(reserve_name, self._folder, progress.name)
        except OutputError as exc:
            work.given_up = _cause_of(exc)
            self._log.trouble("clip.unnamed", kind=type(exc).__name__, clip=progress.name, error=str(exc))
            self._lost(f"{progress.name} can't be written: {exc}")
        else:
            progress.is_named = True
            work.life.on(Event.NAMED)
            self.named()
            self._recording.is_changed = True
            self._log.info("clip.opened", clip=progress.name, step=progress.start_step)
            self._records.note(work)


def _nothing() -> None:
    pass


def _cause_of(exc: OutputError) -> DropCause:
    """Return why frames are lost when a file can't be made."""
    return DropCause.of_write_error(exc.__cause__) if isinstance(exc.__cause__, OSError) else DropCause.ENCODE_FAILED
