"""A worker program as the service sees it: started, talked to, and ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass, field

import anyio

from ..encoders.protocol import Command, Finish, Reply, reply_reader, to_bytes
from ..errors import WorkerError
from .threads import Threads

_READ_NBYTES = 65536
_DIAGNOSTIC_LINES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSetup:
    """What a worker is started with."""

    memory_fd: int
    """Descriptor of the shared memory, which begins with the control bytes."""
    memory_nbytes: int
    training_process: int
    """The process in which training runs, and which the worker stays out of the way of."""
    training_thread: int
    """The native identifier of its thread."""
    cpus: Collection[int] = ()
    """CPUs that it may use; none given: those that the thread which starts it may use."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that it has besides those of this process."""


class WorkerProcess:
    """A running worker program. Its methods belong to the service's event loop."""

    def __init__(
        self, popen: subprocess.Popen[bytes], threads: Threads, *, command_fd: int, reply_fd: int, stderr_fd: int
    ) -> None:
        self._popen = popen
        self._threads = threads
        self._command_fd = command_fd
        self._reply_fd = reply_fd
        self._stderr_fd = stderr_fd
        self._stderr: deque[str] = deque(maxlen=_DIAGNOSTIC_LINES)
        self._outgoing = bytearray()
        self._is_full = anyio.Event()
        for fd in (command_fd, reply_fd, stderr_fd):
            os.set_blocking(fd, False)

    @classmethod
    async def start(cls, setup: WorkerSetup, threads: Threads) -> WorkerProcess:
        """Start a worker, which ends soon after this process.

        Raises:
            WorkerError: the program can't be started.
        """
        command = os.pipe()
        reply = os.pipe()
        stderr = os.pipe()
        try:
            popen = await threads.run(_spawn, setup, command[0], reply[1], stderr[1])
        except OSError as exc:
            for fd in (command[1], reply[0], stderr[0]):
                os.close(fd)
            raise WorkerError(f"starting {sys.executable} -m stepreel.encoders.worker: {exc}") from exc
        finally:
            for fd in (command[0], reply[1], stderr[1]):
                os.close(fd)
        return cls(popen, threads, command_fd=command[1], reply_fd=reply[0], stderr_fd=stderr[0])

    @property
    def pid(self) -> int:
        """The process identifier."""
        return self._popen.pid

    @property
    def diagnostics(self) -> str:
        """The last lines that the worker wrote to its standard error."""
        return "\n".join(self._stderr)

    def send_nowait(self, command: Command) -> None:
        """Send a command, now or, where the pipe is full, by `send_waiting`. A worker that is gone hears nothing."""
        self._outgoing += to_bytes(command)
        self._write()
        if self._outgoing:
            self._is_full.set()

    async def send_waiting(self) -> None:
        """Send, for as long as the worker runs, what did not fit into the pipe at once."""
        while True:
            await self._is_full.wait()
            while self._outgoing:
                try:
                    await anyio.wait_writable(self._command_fd)
                except anyio.ClosedResourceError:
                    return
                self._write()
            self._is_full = anyio.Event()

    def _write(self) -> None:
        while self._outgoing and self._command_fd >= 0:
            try:
                del self._outgoing[: os.write(self._command_fd, self._outgoing)]
            except BlockingIOError:
                return
            except OSError:
                self._outgoing.clear()  # The end of its replies tells the rest.

    async def replies(self) -> AsyncGenerator[list[Reply], None]:
        """Yield what the worker has reported since the last time, until it ends.

        Raises:
            WorkerError: the worker broke the protocol.
        """
        reader = reply_reader()
        while data := await _read(self._reply_fd):
            yield list(reader.feed(data))

    async def collect_diagnostics(self) -> None:
        """Keep the last lines of the worker's standard error, until it ends."""
        line = b""
        while data := await _read(self._stderr_fd):
            *lines, line = (line + data).split(b"\n")
            self._stderr.extend(text.decode(errors="replace") for text in lines)
            line = line[-4096:]
        if line:
            self._stderr.append(line.decode(errors="replace"))

    def end_commands(self) -> None:
        """Tell the worker that no command follows: it closes its segments and ends."""
        if self._command_fd >= 0:
            self.send_nowait(Finish())
            self._outgoing.clear()
            anyio.notify_closing(self._command_fd)
            os.close(self._command_fd)
            self._command_fd = -1

    def kill(self) -> None:
        """End the worker at once."""
        self._popen.kill()

    async def aclose(self, timeout_s: float) -> int:
        """Wait for the worker's end, kill it where it doesn't come in time, and return its exit status."""
        self.end_commands()
        try:
            status = await self._threads.run(self._popen.wait, timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            status = await self._threads.run(self._popen.wait)
        for fd in (self._reply_fd, self._stderr_fd):
            anyio.notify_closing(fd)
            os.close(fd)
        return status


def _spawn(setup: WorkerSetup, command_fd: int, reply_fd: int, stderr_fd: int) -> subprocess.Popen[bytes]:
    # -P and the caller's own sys.path: the worker imports what the training script would import, and no more.
    arguments = [sys.executable, "-P", "-m", "stepreel.encoders.worker"]
    arguments += [f"--memory={setup.memory_fd}", f"--memory-nbytes={setup.memory_nbytes}"]
    arguments += [f"--commands={command_fd}", f"--replies={reply_fd}", f"--parent={os.getpid()}"]
    arguments += [f"--training-process={setup.training_process}", f"--training-thread={setup.training_thread}"]
    if setup.cpus:
        arguments += ["--cpus=" + ",".join(map(str, sorted(setup.cpus)))]
    return subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=stderr_fd,
        stderr=stderr_fd,
        pass_fds=(setup.memory_fd, command_fd, reply_fd),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **setup.environment},
        # A Ctrl-C on the terminal is the training process's to answer. Not a session of its own: Linux would then
        # schedule the worker as a group with a full share, whatever its own policy (`sched_autogroup_enabled`).
        process_group=0,
    )


async def _read(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, _READ_NBYTES)
        except BlockingIOError:
            await anyio.wait_readable(fd)
