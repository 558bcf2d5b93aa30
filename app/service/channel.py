"""The service's end of the socket to training: what a user must hear, in batches, and what training asks for."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator

import anyio

from ..errors import WorkerError
from ..transport.messages import FrameReader, ToService, ToTraining, to_frame
from .waking import Notifier

_READ_NBYTES = 65536
_INTERVAL_S = 1.0
"""Time from one batch to the next: each wakes a thread of the training process."""
_MOST_NBYTES = 64 * 2**20
"""Messages that wait for a training process that does not listen; more are lost."""


class Channel:
    """Belongs to the service's event loop. Nothing in it waits for training.

    Attributes:
        is_urgent: Somebody waits for what is sent: it goes at once.
        lost_count: Messages that found no room.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.is_urgent = False
        self.lost_count = 0
        self._socket = connection
        self._outgoing = bytearray()
        self._appended = Notifier()
        self._is_broken = False

    def send(self, message: ToTraining, *, now: bool = False) -> None:
        """Have a message sent, with the next batch or `now`."""
        if self._is_broken:
            return
        if len(self._outgoing) > _MOST_NBYTES:
            self.lost_count += 1
            return
        self._outgoing += to_frame(message)
        if now or self.is_urgent:
            self._write()
        self._appended.notify()

    def hurry(self) -> None:
        """Send what waits."""
        self._write()
        self._appended.notify()

    async def run(self) -> None:
        """Send batches."""
        sent_at = 0.0
        while not self._is_broken:
            while not self._outgoing:
                await self._appended.wait()
            left_s = sent_at + _INTERVAL_S - anyio.current_time()
            if left_s > 0 and not self.is_urgent:
                await self._appended.wait(left_s)
                continue
            self._write()
            sent_at = anyio.current_time()
            if self._outgoing and not self._is_broken:
                await anyio.wait_writable(self._socket)

    async def messages(self) -> AsyncGenerator[ToService, None]:
        """Yield what training sends, until it ends or closes its side."""
        reader = FrameReader(ToService)
        while True:
            try:
                data = self._socket.recv(_READ_NBYTES)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
                continue
            except OSError:
                data = b""
            if not data:
                return
            try:
                for message in reader.feed(data):
                    yield message
            except WorkerError:
                return

    def close(self) -> None:
        """Let go of the socket."""
        self._is_broken = True
        anyio.notify_closing(self._socket)
        self._socket.close()

    def _write(self) -> None:
        while self._outgoing and not self._is_broken:
            try:
                del self._outgoing[: self._socket.send(self._outgoing)]
            except BlockingIOError:
                return
            except OSError:  # Nobody listens any more.
                self._is_broken = True
                self._outgoing.clear()
