"""What a worker does with each command."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..clip import DropCause
from ..config import EncodeSettings
from ..errors import CodecUnavailableError, StepreelError, describe
from ..storage.folder_lock import FolderLock
from .clip_encoder import ClipEncoder, FrameEncoder, RingEncoder
from .codecs import choose_codec
from .lost_segment import Failure, close_lost_segment
from .priorities import Priorities
from .protocol import (
    BeginClip,
    ClipDone,
    Command,
    Configure,
    EncodeFrame,
    EndClip,
    FrameDone,
    OpenStream,
    Ready,
    Refused,
    Remux,
    Reply,
)
from .renderer_host import RenderedStream, RendererHost

_TRIAL_SIZE = (640, 480)
"""Settings are tried at this size where no picture's size is known yet."""
_MOST_ENCODER_THREADS = 4

Pixels = NDArray[np.uint8]


@dataclass(slots=True, kw_only=True)
class _ClipInWork:
    stream: RenderedStream
    encoder: FrameEncoder
    is_drawn_from: bool = False
    """A snapshot of it was drawn, or tried."""


class CommandHandler:
    """Performs commands, one after the other. For one thread at a time.

    Args:
        memory: The shared memory with the captures, shape `[nbytes]`, read-only.
        send: Takes the replies.
        host: Of the renderers.
        priorities: Are lowered as `Configure` says.
        rest: Waits for as many seconds as it is given, or less.
    """

    def __init__(
        self,
        memory: Pixels,
        send: Callable[[Reply], None],
        *,
        host: RendererHost,
        priorities: Priorities,
        rest: Callable[[float], None],
    ) -> None:
        self._memory = memory
        self._send = send
        self._host = host
        self._priorities = priorities
        self._rest = rest
        self._configuration: Configure | None = None
        self._lock: FolderLock | None = None
        """Kept to the end: a worker may outlive its recorder, and still has a segment to close."""
        self._clips: dict[int, _ClipInWork] = {}

    def handle(self, command: Command) -> None:
        """Perform one command, and send what there is to report."""
        match command:
            case Configure():
                self._configure(command)
            case OpenStream():
                self._open_stream(command)
            case BeginClip():
                self._begin_clip(command)
            case EncodeFrame():
                self._encode_frame(command)
            case EndClip():
                self._end_clip(command)
            case Remux():
                for reply in close_lost_segment(self._folder, command):
                    self._send(reply)
            case _:
                raise StepreelError(f"a worker does not perform {type(command).__name__}")

    def close(self) -> None:
        """Close every segment that is open, as far as its frames came."""
        for clip in self._clips.values():
            clip.encoder.close()
        self._host.close()

    def _configure(self, command: Configure) -> None:
        self._configuration = command
        self._lock = FolderLock.share(command.folder)
        self._priorities.lower(command.priority)

    def _open_stream(self, command: OpenStream) -> None:
        stream = self._host.add(command)
        first = self._configured.stream_count
        if self._host.stream_count > first:
            self._host.open(stream)
            return
        try:
            codec = choose_codec(_settings(stream), *(stream.size or _TRIAL_SIZE))
        except CodecUnavailableError as exc:
            self._send(Refused(message=str(exc)))
            return
        if self._host.stream_count == first:
            self._send(Ready(codec=codec if stream.size else None, versions=_versions()))
            self._host.open_all()

    def _begin_clip(self, command: BeginClip) -> None:
        stream = self._host.stream(command.stream, command.version)
        self._host.open(stream)
        self._clips[command.clip] = _ClipInWork(stream=stream, encoder=self._make_encoder(command, stream))

    def _make_encoder(self, command: BeginClip, stream: RenderedStream) -> FrameEncoder:
        settings, folder = _settings(stream), self._folder
        if command.ring_s:
            return RingEncoder(command, settings, folder, send=self._send)
        min_free_bytes = self._configured.min_free_bytes
        return ClipEncoder(command, settings, folder, min_free_bytes=min_free_bytes, send=self._send)

    def _encode_frame(self, command: EncodeFrame) -> None:
        clip = self._clips[command.clip]
        start, cpu_start = time.monotonic(), time.process_time()
        pixels = self._pixels(clip, command)
        rendered = time.monotonic()
        failure = pixels if isinstance(pixels, Failure) else clip.encoder.write(pixels, command)
        render_s = rendered - start if not command.height else 0.0
        self._send(
            FrameDone(
                clip=command.clip,
                step=command.step,
                cause=failure.cause if failure else None,
                message=failure.message if failure else "",
                render_s=render_s,
                encode_s=time.monotonic() - rendered,
                cpu_s=time.process_time() - cpu_start,
            )
        )
        duty = clip.stream.render_duty
        if render_s and duty < 1.0:
            self._rest(render_s * (1.0 / duty - 1.0))

    def _pixels(self, clip: _ClipInWork, command: EncodeFrame) -> Pixels | Failure:
        """Return the frame's pixels, or why there are none."""
        capture = self._memory[command.offset : command.offset + command.nbytes]
        if clip.encoder.failure:
            return clip.encoder.failure
        if command.height:
            return capture.reshape(command.height, command.width, 3)
        if not clip.is_drawn_from:
            clip.is_drawn_from = True
            self._host.reopen_failing(clip.stream)
        try:
            return clip.stream.render(capture)
        except BaseException as exc:  # noqa: BLE001 - whatever a renderer raises costs this frame only.
            return Failure(cause=DropCause.RENDER_FAILED, message=describe(exc))

    def _end_clip(self, command: EndClip) -> None:
        clip = self._clips.pop(command.clip)
        clip.encoder.end(command)
        self._send(ClipDone(clip=command.clip))
        if all(other.stream is not clip.stream for other in self._clips.values()):
            self._host.close_replaced(clip.stream)

    @property
    def _configured(self) -> Configure:
        if self._configuration is None:
            raise StepreelError("a worker must be configured first")
        return self._configuration

    @property
    def _folder(self) -> Path:
        return self._configured.folder


def _settings(stream: RenderedStream) -> EncodeSettings:
    return replace(stream.settings, threads=max(1, min(_MOST_ENCODER_THREADS, (os.cpu_count() or 1) // 2)))


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("av", "numpy")}
