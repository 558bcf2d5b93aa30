"""An event loop in a thread of its own, for a calling thread that may be interrupted at any instruction."""

from __future__ import annotations

import _thread
import asyncio
from contextlib import suppress
from threading import Lock, Thread, get_ident
from types import TracebackType
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from .doorbell import Pulse
from .errors import RecordingError


class Flushable(Protocol):
    """What the loop keeps open: an `AsyncRecorder`."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> object: ...

    async def flush(self) -> None:
        """Wait until all is done that was asked for."""
        ...


class _Latch:
    """Opened once, by the loop's thread; waited for by any."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()
        self._is_open = False

    def open(self) -> None:
        if not self._is_open:
            self._is_open = True
            self._lock.release()

    def wait(self) -> None:
        with self._lock:
            pass


class _Flush:
    """A call of `flush`, and its answer."""

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self.is_begun = False
        self.answered = _Latch()
        self.is_late = False
        self.failure: Exception | None = None


class LoopThread:
    """Keeps something open in an event loop that runs in a thread of its own. It is used once.

    A Ctrl-C may interrupt the calling thread anywhere, also in the Python code of `threading` and `concurrent.futures`
    that it waits in. A lock that it keeps from there would stop the loop for good. So the two threads share only
    plain locks, which are taken and given back in one instruction, and calls that need none. Hence no portal of
    anyio's, which answers with futures.
    """

    def __init__(self, content: Flushable) -> None:
        self._content = content
        self._thread = Thread(target=self._run, name="stepreel", daemon=True)
        self._is_begun = False
        self._opened = _Latch()
        self._ended = _Latch()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wishes = Pulse()
        """Beats when one of these has changed."""
        self._is_closing = False
        self._is_cut_short = False
        self._flushes: list[_Flush] = []
        self._is_over = False
        """Set before the last look at the flushes: one that comes later finds it."""
        self._failure: BaseException | None = None

    def open(self) -> None:
        """Start the loop, and open the content in it; raises what that raises. Call `cut_short` where this raises."""
        self._is_begun = True
        # To start a thread is to wait for it, in Python code: that is left to one that nobody interrupts.
        try:
            _thread.start_new_thread(self._start, ())
        except RuntimeError:
            self._end()
            raise
        self._opened.wait()
        self._raise_failure()

    def close(self) -> None:
        """Close the content and end the loop; raises what closing raises. A second call waits for the first.

        Raises:
            RecordingError: called on the loop's own thread.
        """
        self.refuse_inside()
        self._is_closing = True
        self._wake()
        self._wait_for_end()
        self._raise_failure()

    def cut_short(self) -> None:
        """Cancel whatever the content is at, opening or closing, and wait for the end of the loop."""
        self._is_cut_short = True
        self._wake()
        self._wait_for_end()

    def flush(self, timeout_s: float | None) -> bool:
        """Flush the content; False where `timeout_s` was over first.

        Raises:
            RecordingError: called on the loop's own thread.
        """
        self.refuse_inside()
        flush = _Flush(timeout_s)
        self._flushes.append(flush)
        self._wake()
        if not self._is_over:
            flush.answered.wait()
        if flush.failure:
            raise flush.failure
        return not flush.is_late

    def refuse_inside(self) -> None:
        """Raise `RecordingError` on the loop's own thread, which would wait for itself."""
        if get_ident() == self._thread.ident:
            raise RecordingError("a hook called the recorder, which waits for the hook; call it from the training loop")

    def _wake(self) -> None:
        if self._loop:
            with suppress(RuntimeError):  # The loop has ended.
                self._loop.call_soon_threadsafe(self._wishes.beat)

    def _wait_for_end(self) -> None:
        if self._is_begun:
            self._ended.wait()
        if self._thread.is_alive():
            self._thread.join()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    # What follows runs in other threads than the caller's.

    def _start(self) -> None:
        try:
            self._thread.start()
        except RuntimeError as exc:
            self._failure = exc
            self._end()

    def _run(self) -> None:
        try:
            anyio.run(self._live)
        except BaseException as exc:  # noqa: BLE001 - it is raised in the caller's thread.
            self._failure = exc
        finally:
            self._end()

    def _end(self) -> None:
        self._is_over = True
        for latch in (self._opened, *(flush.answered for flush in self._flushes), self._ended):
            latch.open()

    async def _live(self) -> None:
        closing = anyio.Event()
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                tasks.start_soon(self._hear_wishes, tasks, closing, scope)
                await self._keep_open(closing)
            tasks.cancel_scope.cancel()

    async def _hear_wishes(self, tasks: TaskGroup, closing: anyio.Event, scope: anyio.CancelScope) -> None:
        self._loop = asyncio.get_running_loop()
        while True:
            if self._is_cut_short:
                scope.cancel()
            if self._is_closing:
                closing.set()
            for flush in [one for one in self._flushes if not one.is_begun]:
                flush.is_begun = True
                tasks.start_soon(self._flush, flush)
            await self._wishes.wait()

    async def _keep_open(self, closing: anyio.Event) -> None:
        try:
            async with self._content:
                self._opened.open()
                await closing.wait()
        except Exception as exc:  # noqa: BLE001 - it is raised in the caller's thread.
            self._failure = exc

    async def _flush(self, flush: _Flush) -> None:
        try:
            with anyio.move_on_after(flush.timeout_s) as scope:
                await self._content.flush()
            flush.is_late = scope.cancelled_caught
        except Exception as exc:  # noqa: BLE001 - it is raised in the caller's thread.
            flush.failure = exc
        finally:
            self._flushes.remove(flush)
            flush.answered.open()
