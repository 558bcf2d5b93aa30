"""The link to the recording service, as training sees it: started, heard, and started anew when it dies."""

from __future__ import annotations

import os
import select
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import IO, Any

from .child_process import ChildProcess
from .clip import Clip
from .errors import CodecUnavailableError, RecordingError, StepreelError, WorkerError, describe
from .interfaces import AsyncClipHook, AsyncSegmentHook, ClipHook, SegmentHook
from .storage.session_files import status_path
from .transport.messages import (
    ClipReady,
    Close,
    Ended,
    Flush,
    Flushed,
    FrameReader,
    FramesLost,
    Heard,
    Logged,
    Noted,
    Opened,
    Refused,
    SegmentReady,
    ToService,
    ToTraining,
    to_frame,
)
from .transport.shared_memory import ServiceWord, SharedMemory, TrainingWord

_READ_NBYTES = 65536
_LOOK_S = 5.0
_FROZEN_LOOKS = 6
"""Looks at a service that does not move, although there is something to do, after which it is replaced."""
_MOST_RESTARTS = 3
"""Services that may be lost one after the other without anything having been recorded in between."""
_DIAGNOSTIC_NBYTES = 4000
_SEND_LOOK_S = 1.0
_END_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What a caller wants to hear of."""

    on_clip_closed: ClipHook | AsyncClipHook | None = None
    on_segment_closed: SegmentHook | AsyncSegmentHook | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HookCall:
    """A hook that is to be called, and what to do about it afterwards."""

    name: str
    call: Callable[[], object]
    failed: Callable[[BaseException], None]
    done: Callable[[], None]

    def run(self) -> None:
        """Call it; whatever it raises is logged."""
        try:
            self.call()
        except BaseException as exc:  # noqa: BLE001 - a caller's hook must not end the recording.
            self.failed(exc)
        self.done()

    async def run_async(self) -> None:
        """Call it, and await what it returns where that is awaitable."""
        try:
            returned = self.call()
            if isinstance(returned, Awaitable):
                await returned
        except BaseException as exc:
            from anyio import get_cancelled_exc_class  # Whoever awaits has it.

            if isinstance(exc, get_cancelled_exc_class() | GeneratorExit):
                raise
            self.failed(exc)
        self.done()


class Latch:
    """Opened once; waited for by any thread, also by one that a Ctrl-C interrupts.

    A plain lock, taken and given back in one instruction: an interruption inside of `threading`'s Python code would
    leave its locks taken.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()
        self.is_open = False

    def open(self) -> None:
        """Let everybody pass. Called by one thread only."""
        if not self.is_open:
            self.is_open = True
            self._lock.release()

    def wait(self, timeout_s: float = -1.0) -> bool:
        """Wait until it is open; False where the time is over first."""
        if self._lock.acquire(timeout=timeout_s):
            self._lock.release()
        return self.is_open


class Link:
    """What it has to tell comes back from `receive`, which belongs to one thread or task; `ask_...` to any.

    Attributes:
        is_over: Nothing more will be heard.
        needs_care: The service has ended, or died: `care` and `cared` are to be called.
        refusal: Why nothing can be recorded.
        changed: Called after anything was heard that somebody may wait for.
    """

    def __init__(
        self,
        memory: SharedMemory,
        folder: Path,
        hooks: Hooks,
        fail: Callable[[RecordingError], None],
        *,
        is_strict: bool = False,
    ) -> None:
        self.is_ready = False
        self.is_over = False
        self.needs_care = False
        self.refusal: StepreelError | None = None
        self.changed: Callable[[], None] = _nothing
        self._clips: dict[int, Clip] = {}
        self._folder = folder
        self._hooks = hooks
        self._fail = fail
        self._is_strict = is_strict
        self._service = _ServiceProcess(memory, folder)
        self._asked = _Asked()
        self._has_ended = False
        self._log = _CallerLog(self._note)
        self._moves = _Moves(memory)

    @property
    def clips(self) -> tuple[Clip, ...]:
        """Every clip that was announced, in order."""
        return tuple(self._clips.copy().values())

    def start(self) -> None:
        """Start the service in a process of its own. Raises `WorkerError`."""
        self._service.start()

    def embed(self, connection: socket.socket) -> None:
        """Hear a service that runs in this process, on the other end of a connection."""
        self._service.adopt(connection)

    def descriptors(self) -> list[int]:
        """Return what is readable when there is something to receive."""
        return self._service.descriptors()

    def wait(self) -> None:
        """Wait until there is something to receive, or it is time for another look. Blocks, without any lock."""
        poll = select.poll()
        for fd in self.descriptors():
            poll.register(fd, select.POLLIN)
        if not poll.poll(_LOOK_S * 1000):
            self.look()

    def look(self) -> None:
        """End a service that has not moved for long, although there is something to do; call it now and then."""
        if self._moves.is_stuck(somebody_waits=self._asked.is_anything):
            self._service.kill()

    def receive(self) -> Iterator[HookCall]:
        """Take what the service has sent; yield the hooks that are to be called for it."""
        messages, is_lost = self._service.receive()
        for message in messages:
            yield from self._take(message)
        self.needs_care |= is_lost
        self.changed()

    def care(self) -> WorkerError | None:
        """Wait for the end of a service, and start another where it died. Blocks; `cared` is to be called then.

        Returns:
            Why recording has ended, where it could not go on.
        """
        self.needs_care = False
        problem = self._service.end()
        if self._has_ended or (self._asked.is_closing and self._service.ended_well):
            self._has_ended = True
            return None
        if not self._service.is_own or not self._moves.may_restart():
            return WorkerError(f"the recording service was lost: {problem}")
        time.sleep(self._moves.backoff_s)
        try:
            self._service.start()
        except WorkerError as exc:
            return exc
        return None

    def cared(self, problem: WorkerError | None) -> None:
        """Go on after `care`, on the thread or task that receives."""
        if problem:
            self.refusal = self.refusal or problem
            self._log.write("warning", "recorder.failed", {"error": str(problem)})
            if self._is_strict:
                self._fail(RecordingError(f"{problem} (strict=True)"))
        if problem or self._has_ended:
            self._end()
        else:
            for message in self._asked.outstanding():
                self._service.send(message)

    def ask_flush(self, answered: Callable[[], None]) -> None:
        """Have it called, on the thread that receives, once all that is in the journal now is done."""
        flush = self._asked.flush(self._moves.head, answered)
        if self.is_over:
            self._asked.answer(flush.token)
        else:
            self._service.send(flush)

    def ask_close(self, *, somebody_waits: bool, drop_waiting: bool) -> None:
        """Have the service end when all is done."""
        close = self._asked.close(somebody_waits=somebody_waits, drop_waiting=drop_waiting)
        self._service.send(close)

    def failed(self, problem: str) -> None:
        """Hear that a service in this process has failed."""
        self.refusal = self.refusal or WorkerError(f"the recorder itself failed: {problem}")
        self._log.write("warning", "recorder.failed", {"error": problem})

    def detach(self) -> None:
        """Hear nothing more; the service goes on by itself."""
        self._service.leave()
        self._end()

    def reap(self) -> None:
        """Wait until a service that was left has ended, so that no trace of it stays behind. Blocks."""
        self._service.reap()

    def disown(self) -> None:
        """Be of no effect in a process that was forked."""
        self.is_over = True
        self._service.disown()

    def _take(self, message: ToTraining) -> Iterator[HookCall]:
        match message:
            case Opened():
                self.is_ready = True
            case Refused():
                kind = CodecUnavailableError if message.is_codec else WorkerError
                self.refusal = self.refusal or kind(message.message)
            case Logged():
                self._log.write(message.level, message.event, message.facts)
            case SegmentReady():
                clip = replace(message.clip, folder=self._folder)
                if hook := self._hooks.on_segment_closed:
                    segment = message.segment
                    yield self._hook_call("on_segment_closed", lambda: hook(clip, segment), _nothing)
            case ClipReady():
                yield from self._take_clip(message)
            case FramesLost():
                self._fail(RecordingError(f"{message.reason} (strict=True)"))
            case Flushed():
                self._asked.answer(message.token)
            case Ended():
                self._has_ended = self.needs_care = True

    def _take_clip(self, message: ClipReady) -> Iterator[HookCall]:
        if message.index in self._clips:
            return  # A service that took over tells of it again.
        clip = replace(message.clip, folder=self._folder)
        self._clips[message.index] = clip
        heard = Heard(clip=message.index)
        if hook := self._hooks.on_clip_closed:
            yield self._hook_call("on_clip_closed", lambda: hook(clip), lambda: self._service.send(heard))
        else:
            self._service.send(heard)

    def _hook_call(self, name: str, call: Callable[[], object], done: Callable[[], None]) -> HookCall:
        def failed(exc: BaseException) -> None:
            self._note("hook.failed", hook=name, error=describe(exc))
            self._log.write("warning", "hook.failed", {"hook": name, "error": describe(exc)})

        return HookCall(name=name, call=call, failed=failed, done=done)

    def _note(self, event: str, **facts: Any) -> None:
        """Have the session's log tell of something that happened here."""
        self._service.send(Noted(event=event, facts=facts))

    def _end(self) -> None:
        self.is_over = True
        self._asked.answer_all()
        self.changed()


class _Asked:
    """What the service was asked for and has not answered: a service that takes over is asked again.

    Called by the thread that asks and by the one that receives; each step is one that the interpreter does not divide.
    """

    def __init__(self) -> None:
        self._flushes: dict[int, tuple[Flush, Callable[[], None]]] = {}
        self._tokens = 0
        self._close: Close | None = None

    @property
    def is_closing(self) -> bool:
        """Whether the service may end."""
        return self._close is not None

    @property
    def is_anything(self) -> bool:
        """Whether somebody waits."""
        return bool(self._flushes) or (self._close is not None and self._close.somebody_waits)

    def flush(self, head: int, answered: Callable[[], None]) -> Flush:
        """Note a flush."""
        self._tokens += 1
        flush = Flush(token=self._tokens, head=head)
        self._flushes[flush.token] = (flush, answered)
        return flush

    def close(self, *, somebody_waits: bool, drop_waiting: bool) -> Close:
        """Note that the recorder is closed."""
        before = self._close
        self._close = Close(
            somebody_waits=somebody_waits or bool(before and before.somebody_waits),
            drop_waiting=drop_waiting or bool(before and before.drop_waiting),
        )
        return self._close

    def answer(self, token: int) -> None:
        """Tell whoever asked."""
        found = self._flushes.pop(token, None)
        if found:
            found[1]()

    def answer_all(self) -> None:
        """Tell everybody: nobody else will."""
        for token in list(self._flushes):
            self.answer(token)

    def outstanding(self) -> list[ToService]:
        """Return what is to be asked again."""
        return [*(flush for flush, _ in list(self._flushes.values())), *([self._close] if self._close else [])]


class _Moves:
    """Whether the service gets on with its work."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._heartbeat = -1
        self._still_looks = 0
        self._restarts = 0
        self._released = 0
        self.backoff_s = 0.0

    @property
    def head(self) -> int:
        """Records that training has written."""
        return self._memory.training[TrainingWord.HEAD] if self._memory.is_open else 0

    def is_stuck(self, *, somebody_waits: bool) -> bool:
        """Count a look; whether the service has not moved in so many, although there is something to do."""
        memory = self._memory
        if not memory.is_open:
            return False
        heartbeat = memory.service[ServiceWord.HEARTBEAT]
        has_work = somebody_waits or memory.training[TrainingWord.HEAD] > memory.service[ServiceWord.READ]
        is_still = heartbeat == self._heartbeat and has_work
        self._heartbeat = heartbeat
        self._still_looks = self._still_looks + 1 if is_still else 0
        return self._still_looks > _FROZEN_LOOKS

    def may_restart(self) -> bool:
        """Count a service that was lost; whether another one is worth it."""
        self._still_looks = 0
        released = self._memory.service[ServiceWord.RELEASED]
        self._restarts = 1 if released > self._released else self._restarts + 1
        self._released = released
        self.backoff_s = 0.1 * (self._restarts - 1) ** 2
        return self._restarts <= _MOST_RESTARTS


class _ServiceProcess:
    """The process and the socket to it."""

    def __init__(self, memory: SharedMemory, folder: Path) -> None:
        self.is_own = True
        self.ended_well = False
        self._memory = memory
        self._folder = folder
        self._process: ChildProcess | None = None
        self._left: ChildProcess | None = None
        self._output: IO[bytes] | None = None
        self._watch = -1
        self._socket: socket.socket | None = None
        self._reader = FrameReader(ToTraining)

    def start(self) -> None:
        """Start the program. Raises `WorkerError`."""
        ours, theirs = socket.socketpair()
        self._output = tempfile.TemporaryFile()
        # -P and the caller's own sys.path: it imports what the training script would import, and no more.
        arguments = [sys.executable, "-P", "-m", "stepreel.service", f"--memory={self._memory.fd}"]
        arguments += [f"--socket={theirs.fileno()}", f"--folder={self._folder}", f"--training={os.getpid()}"]
        try:
            # In a process group of its own: a Ctrl-C on the terminal is training's to answer. Not in a session of its
            # own: Linux would then give it, and its workers, a full share of the processor as a group
            # (`sched_autogroup_enabled`).
            self._process = ChildProcess(
                arguments,
                environment={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                output=self._output.fileno(),
                kept=(self._memory.fd, theirs.fileno()),
            )
        except OSError as exc:
            ours.close()
            raise WorkerError(f"starting {sys.executable} -m stepreel.service: {exc}") from exc
        finally:
            theirs.close()
        with suppress(AttributeError, OSError):
            self._watch = os.pidfd_open(self._process.pid)
        self.adopt(ours, is_own=True)

    def adopt(self, connection: socket.socket, *, is_own: bool = False) -> None:
        """Use a connection."""
        connection.setblocking(False)
        self.is_own = is_own
        self._reader = FrameReader(ToTraining)
        self._socket = connection

    def descriptors(self) -> list[int]:
        """Return what is readable when there is something to receive, or the process has ended."""
        found = [self._socket.fileno()] if self._socket else []
        return [*found, *([self._watch] if self._watch >= 0 else [])]

    def send(self, message: ToService) -> None:
        """Send a message; a service that is gone hears nothing. Called from any thread: one call sends all of it."""
        connection = self._socket
        data = to_frame(message)
        while connection and data:
            try:
                data = data[connection.send(data) :]
            except BlockingIOError:  # A service that is stuck is replaced, and asked again.
                select.select([], [connection], [], _SEND_LOOK_S)
            except OSError:
                return

    def receive(self) -> tuple[list[ToTraining], bool]:
        """Return what has come, and whether the service is gone."""
        messages: list[ToTraining] = []
        while self._socket:
            try:
                data = self._socket.recv(_READ_NBYTES)
            except BlockingIOError:
                return messages, self._has_ended() and not _is_readable(self._socket)
            except OSError:
                data = b""
            if not data:
                return messages, True
            try:
                messages += self._reader.feed(data)
            except WorkerError:
                self.kill()
                return messages, True
        return messages, False

    def kill(self) -> None:
        """End the process at once."""
        if self._process:
            self._process.kill()

    def end(self) -> str:
        """Let go of the process, which is gone or goes on without being heard; return the end of its output."""
        connection, self._socket = self._socket, None
        watch, self._watch = self._watch, -1
        if connection:
            connection.close()
        if watch >= 0:
            os.close(watch)
        words = ""
        output, self._output = self._output, None
        if self._process and output:
            status = self._process.wait(_END_S)
            if status is None:  # Two services must never write to the same memory.
                self._process.kill()
                status = self._process.wait(_END_S)
            self.ended_well = status == 0
            with suppress(OSError):  # It could not do that itself where it was killed while it finished.
                status_path(self._folder, self._process.pid).unlink()
            words = f"status {status}: {_tail_of(output)}"
        if output:
            output.close()
        return words

    def leave(self) -> None:
        """Let go of the process, which goes on by itself, without waiting for it; `reap` does that."""
        self._left, self._process = self._process, None
        self.end()

    def reap(self) -> None:
        """Wait for the end of a process that was left, which else would stay in the list of processes. Blocks."""
        left, self._left = self._left, None
        if left:
            left.reap()

    def disown(self) -> None:
        """Let go of all of it in a process that was forked: it is the parent's."""
        self._process = self._left = None
        self.end()

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None


class _CallerLog:
    """Writes events to the caller's structlog configuration; a processor that fails is told of in the session's log."""

    def __init__(self, note: Callable[..., None]) -> None:
        self._note = note
        self._logger: Any = None

    def write(self, level: str, event: str, facts: dict[str, Any]) -> None:
        """Log one event."""
        try:
            if self._logger is None:
                import structlog  # Takes a third of the time that importing stepreel may take.

                self._logger = structlog.get_logger("stepreel")
            getattr(self._logger, level)(event, **facts)
        except BaseException as exc:  # noqa: BLE001 - a caller's log processor must not end the recording.
            self._note("log.failed", log_event=event, error=describe(exc))


def _is_readable(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0)[0])


def _tail_of(output: IO[bytes]) -> str:
    end = output.seek(0, os.SEEK_END)
    output.seek(max(0, end - _DIAGNOSTIC_NBYTES))
    return output.read().decode(errors="replace").strip()


def _nothing() -> None:
    pass
