"""The worker program: `python -m stepreel.encoders.worker`, started by the training process only.

It reads commands from one pipe and captures from the frame pool, renders, encodes, and reports on another pipe.
It ends when the command pipe is closed, by the training process or by its death.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import mmap
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..clip import DropCause
from ..errors import CodecUnavailableError, EncodeError, StepreelError
from ..frame_pool import TRAINING_IS_IDLE, WORKERS_ARE_RAISED
from ..interfaces import Renderer
from ..storage.files import PART_SUFFIX
from ..storage.folder_lock import FolderLock
from ..storage.remux import remux as salvage
from .codecs import EncodeSettings, as_fraction, choose_codec
from .cpus import TrainingApart
from .packet_ring import PacketRing
from .protocol import (
    BeginClip,
    ClipDone,
    Configure,
    EncodeFrame,
    EndClip,
    Finish,
    FrameDone,
    Message,
    MessageReader,
    OpenStream,
    Ready,
    Refused,
    Reply,
    RingSaved,
    Salvage,
    Salvaged,
    SegmentClosed,
    SegmentLost,
    SegmentOpened,
    StreamFailed,
    StreamOpened,
    to_bytes,
)
from .segment_writer import ClipWriter

_ORPHAN_GRACE_S = 1.5
"""What a worker whose parent died may still take to close its segments."""
_PARENT_CHECK_S = 0.03
_IDLE_CHECK_S = 0.005
_TRIAL_SIZE = (640, 480)
"""Settings are tried at this size where no picture's size is known yet."""

Send = Callable[[Reply], None]


class _Stream:
    """One source of captures: opens its renderer once, and again for the next clip after a failure."""

    def __init__(self, opened: OpenStream) -> None:
        self.name = opened.stream
        self.version = opened.version
        self.render_duty = opened.render_duty
        self._pickled = opened.payload
        self._renderer: Renderer | None = None
        self.is_failing = False
        """The last snapshot could not be drawn: perhaps the drawing context is lost."""
        self.fps = as_fraction(opened.fps)
        self.size = (opened.width, opened.height) if opened.width and opened.height else None

    @property
    def needs_opening(self) -> bool:
        return bool(self._pickled) and self._renderer is None

    def open(self) -> str:
        """Open the renderer; return what draws. Raises whatever a renderer raises."""
        renderer: Renderer = pickle.loads(self._pickled)
        renderer.open()
        self._renderer = renderer
        return renderer.name

    def render(self, snapshot: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._renderer is None:
            raise StepreelError("the renderer of this stream could not be opened")
        self.is_failing = True
        picture = _check_picture(self._renderer.render(snapshot))
        self.is_failing = False
        return picture

    def close(self) -> None:
        renderer, self._renderer = self._renderer, None
        self.is_failing = False
        if renderer:
            renderer.close()


@dataclass(slots=True, kw_only=True)
class _ClipInWork:
    begin: BeginClip
    stream: _Stream
    is_drawn_from: bool = False
    """A snapshot of it was drawn, or tried."""
    writer: ClipWriter | None = None
    ring: PacketRing | None = None
    reported_part: str | None = None
    reported_segments: int = 0
    failure: tuple[DropCause, str] | None = None
    """Why the rest of the clip is not encoded."""


class Worker:
    """Performs commands, one after the other."""

    def __init__(self, pool: NDArray[np.uint8], send: Send, *, is_training_idle: Callable[[], bool]) -> None:
        self._pool = pool
        self._is_training_idle = is_training_idle
        self._send = send
        self._configuration: Configure | None = None
        self._lock: FolderLock | None = None
        """Kept to the end: a worker may outlive its recorder, and still has a segment to close."""
        self._streams: dict[tuple[str, int], _Stream] = {}
        self._clips: dict[int, _ClipInWork] = {}
        self._codecs: dict[tuple[int, int], str] = {}

    def perform(self, command: Message) -> None:
        """Perform one command, and send what there is to report."""
        match command:
            case Configure():
                self._configuration = command
                self._lock = FolderLock.share(Path(command.folder))
                _lower_priority(command.priority)
            case OpenStream():
                self._open_stream(command)
            case BeginClip():
                self._begin_clip(command)
            case EncodeFrame():
                self._encode_frame(command)
            case EndClip():
                self._end_clip(command)
            case Salvage():
                self._salvage(command)
            case _:
                raise StepreelError(f"a worker does not perform {type(command).__name__}")

    def close(self) -> None:
        """Close every segment that is open, as far as its frames came."""
        for clip in self._clips.values():
            if clip.writer:
                self._close_writer(clip, end_pts=None)
            if clip.ring:
                clip.ring.abandon()
        for stream in self._streams.values():
            stream.close()

    def _open_stream(self, command: OpenStream) -> None:
        stream = _Stream(command)
        self._streams[command.stream, command.version] = stream
        if len(self._streams) > self._configured.stream_count:
            self._open_renderer(stream)
            return
        try:
            codec = self._codec(stream, stream.size or _TRIAL_SIZE)
        except StepreelError as exc:
            self._send(Refused(message=str(exc)))
            return
        if len(self._streams) == self._configured.stream_count:
            self._send(Ready(codec=codec if stream.size else None, versions=_versions()))
            for one in self._streams.values():
                self._open_renderer(one)

    def _open_renderer(self, stream: _Stream) -> None:
        if not stream.needs_opening:
            return
        start = time.monotonic()
        try:
            renderer = stream.open()
        except Exception as exc:  # noqa: BLE001 - whatever a renderer raises costs its frames, not the worker.
            self._send(StreamFailed(stream=stream.name, message=_describe(exc)))
        else:
            self._send(StreamOpened(stream=stream.name, renderer=renderer, open_s=time.monotonic() - start))

    def _reopen_failing(self, stream: _Stream) -> None:
        """Give another clip a fresh renderer, where the one before ended with frames that could not be drawn."""
        if stream.is_failing:
            with contextlib.suppress(Exception):  # What is left of a lost context may refuse even this.
                stream.close()
            self._open_renderer(stream)

    def _close_replaced(self, stream: _Stream) -> None:
        """Close a renderer that a later version of its stream has replaced, once no clip needs it."""
        is_replaced = (stream.name, stream.version + 1) in self._streams
        if is_replaced and all(clip.stream is not stream for clip in self._clips.values()):
            stream.close()

    def _begin_clip(self, command: BeginClip) -> None:
        stream = self._streams[command.stream, command.version]
        self._open_renderer(stream)
        # Of a worker that was lost before it could report the segment: nothing in it is missed.
        unreported = f"{command.name}.{command.first_index:03d}.mp4{PART_SUFFIX}"
        with contextlib.suppress(OSError):
            (Path(self._configured.folder) / unreported).unlink(missing_ok=True)
        self._clips[command.clip] = _ClipInWork(begin=command, stream=stream)

    def _encode_frame(self, command: EncodeFrame) -> None:
        clip = self._clips[command.clip]
        start, cpu_start = time.monotonic(), time.process_time()
        pixels, failure = self._pixels(clip, command)
        rendered = time.monotonic()
        failure = failure or self._write(clip, pixels, command)
        cause, message = failure or ("", "")
        render_s = rendered - start if not command.height else 0.0
        done = FrameDone(
            clip=command.clip,
            step=command.step,
            cause=cause,
            message=message,
            render_s=render_s,
            encode_s=time.monotonic() - rendered,
            cpu_s=time.process_time() - cpu_start,
        )
        self._send(done)
        self._rest_after(render_s, clip.stream.render_duty)

    def _pixels(
        self, clip: _ClipInWork, command: EncodeFrame
    ) -> tuple[NDArray[np.uint8], tuple[DropCause, str] | None]:
        capture = self._pool[command.offset : command.offset + command.nbytes]
        if clip.failure:
            return capture, clip.failure
        if command.height:
            return capture.reshape(command.height, command.width, 3), None
        if not clip.is_drawn_from:
            clip.is_drawn_from = True
            self._reopen_failing(clip.stream)
        try:
            return clip.stream.render(capture), None
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - a frame that can't be drawn costs this frame only.
            return capture, (DropCause.RENDER_FAILED, _describe(exc))

    def _write(
        self, clip: _ClipInWork, pixels: NDArray[np.uint8], command: EncodeFrame
    ) -> tuple[DropCause, str] | None:
        if clip.begin.ring_s:
            return self._write_to_ring(clip, pixels, command)
        try:
            writer = clip.writer or self._open_writer(clip, pixels)
            writer.write(pixels, step=command.step, pts=command.pts)
            self._report_segments(clip, writer)
            self._report_open_segment(clip, writer)
        except EncodeError as exc:
            self._fail(clip, exc)
        return clip.failure

    def _write_to_ring(
        self, clip: _ClipInWork, pixels: NDArray[np.uint8], command: EncodeFrame
    ) -> tuple[DropCause, str] | None:
        clip.ring = clip.ring or PacketRing(
            self._settings(clip.stream),
            start_step=clip.begin.start_step,
            frame_stride=clip.begin.frame_stride,
            limit_s=clip.begin.ring_s,
            limit_nbytes=clip.begin.ring_nbytes,
        )
        height, width = pixels.shape[:2]
        try:
            codec = self._codec(clip.stream, (int(width), int(height)))
            clip.ring.write(pixels, step=command.step, pts=command.pts, codec=codec)
        except EncodeError as exc:
            return exc.cause, _describe(exc)
        except CodecUnavailableError as exc:
            return DropCause.ENCODE_FAILED, _describe(exc)
        return None

    def _save_ring(self, clip: _ClipInWork, command: EndClip) -> None:
        saved, cause, message = None, "", ""
        try:
            if clip.ring:
                saved = clip.ring.save(Path(self._configured.folder), command.saved_as, seconds=command.seconds)
        except EncodeError as exc:
            cause, message = exc.cause, _describe(exc)
        self._send(
            RingSaved(
                clip=command.clip,
                steps=list(saved.steps) if saved else [],
                width=saved.width if saved else 0,
                height=saved.height if saved else 0,
                codec=saved.codec if saved else "",
                cause=cause,
                message=message,
            )
        )
        if saved:
            self._send(SegmentClosed(clip=command.clip, segment=saved.segment))

    def _open_writer(self, clip: _ClipInWork, pixels: NDArray[np.uint8]) -> ClipWriter:
        height, width = pixels.shape[:2]
        settings = replace(self._settings(clip.stream), codec=self._codec(clip.stream, (int(width), int(height))))
        clip.writer = ClipWriter(
            Path(self._configured.folder),
            clip.begin.name,
            settings,
            start_step=clip.begin.start_step,
            frame_stride=clip.begin.frame_stride,
            first_index=clip.begin.first_index,
            min_free_bytes=self._configured.min_free_bytes,
        )
        return clip.writer

    def _end_clip(self, command: EndClip) -> None:
        clip = self._clips.pop(command.clip)
        if command.saved_as:
            self._save_ring(clip, command)
        if clip.ring:
            clip.ring.abandon()
        if clip.writer:
            self._close_writer(clip, end_pts=command.end_pts)
        self._send(ClipDone(clip=command.clip))
        self._close_replaced(clip.stream)

    def _close_writer(self, clip: _ClipInWork, *, end_pts: int | None) -> None:
        writer, clip.writer = clip.writer, None
        if writer is None:
            return
        try:
            writer.close(end_pts)
            self._report_segments(clip, writer)
        except EncodeError as exc:
            clip.writer = writer
            self._fail(clip, exc)

    def _fail(self, clip: _ClipInWork, exc: EncodeError) -> None:
        """Give the clip up; keep what its open segment already holds on disk, where that can be done."""
        clip.failure = (exc.cause, _describe(exc))
        writer, clip.writer = clip.writer, None
        part = writer.open_segment if writer else None
        if writer:
            self._report_segments(clip, writer)
            writer.abandon()
        if part:
            number = part.removesuffix(".mp4.part")
            self._salvage(Salvage(clip=clip.begin.clip, part=part, final=f"{number}.mp4"), cause=clip.failure)

    def _salvage(self, command: Salvage, cause: tuple[DropCause, str] | None = None) -> None:
        lost, message = cause or (DropCause.WORKER_LOST, "")
        folder = Path(self._configured.folder)
        try:
            segment = salvage(folder, command.part, _final_name(folder, command))
        except (EncodeError, OSError) as exc:
            segment, message = None, message or _describe(exc)
        if segment:
            self._send(Salvaged(clip=command.clip, segment=segment))
        is_kept = (folder / command.part).exists()
        self._send(SegmentLost(clip=command.clip, cause=lost, message=message, is_kept=is_kept))

    def _report_open_segment(self, clip: _ClipInWork, writer: ClipWriter) -> None:
        file = writer.open_segment
        if file and writer.size and writer.codec and file != clip.reported_part:
            clip.reported_part = file
            width, height = writer.size
            self._send(
                SegmentOpened(
                    clip=clip.begin.clip,
                    file=file,
                    width=width,
                    height=height,
                    codec=writer.codec,
                    padded=writer.padded,
                )
            )

    def _report_segments(self, clip: _ClipInWork, writer: ClipWriter) -> None:
        for segment in writer.segments[clip.reported_segments :]:
            clip.reported_segments += 1
            self._send(SegmentClosed(clip=clip.begin.clip, segment=segment))

    @property
    def _configured(self) -> Configure:
        if self._configuration is None:
            raise StepreelError("a worker must be configured first")
        return self._configuration

    def _settings(self, stream: _Stream) -> EncodeSettings:
        configure = self._configured
        return EncodeSettings(
            codec=configure.codec,
            preset=configure.preset,
            crf=configure.crf,
            pix_fmt=configure.pix_fmt,
            gop_s=configure.gop_s,
            segment_s=configure.segment_s,
            segment_bytes=configure.segment_bytes,
            fps=stream.fps,
            threads=max(1, min(4, (os.cpu_count() or 1) // 2)),
        )

    def _codec(self, stream: _Stream, size: tuple[int, int]) -> str:
        if size not in self._codecs:
            self._codecs[size] = choose_codec(self._settings(stream), *size)
        return self._codecs[size]

    def _rest_after(self, render_s: float, duty: float) -> None:
        """Keep the share of time spent rendering at the stream's `render_duty`."""
        if duty < 1.0 and render_s:
            end = time.monotonic() + render_s * (1.0 / duty - 1.0)
            while not self._is_training_idle() and (left_s := end - time.monotonic()) > 0:
                time.sleep(min(left_s, _IDLE_CHECK_S))


def _final_name(folder: Path, command: Salvage) -> str:
    """Return the name that the segment already has, if its writer was lost after the renaming, else the one asked."""
    names = (command.part.removesuffix(PART_SUFFIX), command.part[: -len(".000.mp4.part")] + ".mp4")
    renamed = [name for name in names if not (folder / command.part).exists() and (folder / name).exists()]
    return renamed[0] if renamed else command.final


def _check_picture(picture: object) -> NDArray[np.uint8]:
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] == (3,) and picture.size:
        return picture
    what = f"{picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else type(picture).__name__
    raise StepreelError(f"the renderer returned {what}; wanted: uint8 [height, width, 3]")


def _describe(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("av", "numpy")}


def _lower_priority(priority: str) -> None:
    """Let training go first; a system without the policy, or that forbids it, is left as it is."""
    with contextlib.suppress(OSError):
        if priority in ("auto", "idle") and hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        elif priority != "normal":
            os.nice(10)


def _commands(fd: int, orphaned_fd: int) -> Iterator[Message]:
    """Yield commands until there are no more: told so, at the end of the pipe, or at the death of the parent.

    A process that the parent forked may hold the pipe open longer than either lives.
    """
    reader = MessageReader()
    while fd in select.select([fd, orphaned_fd], [], [])[0] and (data := os.read(fd, 65536)):
        for message in reader.feed(data):
            if isinstance(message, Finish):
                return
            yield message


def _heed_parent(command_fd: int, orphaned_fd: int, parent: int, apart: TrainingApart) -> None:
    """Keep off training's CPU, and end this process soon after its parent, even from inside a long compilation.

    Runs on a thread of its own.
    """
    poll = select.poll()
    poll.register(command_fd, 0)
    while not poll.poll(_PARENT_CHECK_S * 1000) and os.getppid() == parent:
        apart.keep()
    os.write(orphaned_fd, b"\0")
    time.sleep(_ORPHAN_GRACE_S)
    if os.getppid() != parent:
        os._exit(1)


def _work(worker: Worker, commands: Iterator[Message], is_raised: Callable[[], bool]) -> bool:
    """Perform commands until there are no more, or return False once the rest is to have another priority."""
    for command in commands:
        worker.perform(command)
        if is_raised():
            return False
    worker.close()
    return True


def main() -> None:
    """Work until the command pipe is closed."""
    parser = argparse.ArgumentParser(prog="stepreel worker", description=__doc__)
    for name in ("--pool", "--pool-nbytes", "--commands", "--replies", "--parent", "--training-thread"):
        parser.add_argument(name, type=int, required=True)
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    orphaned = os.pipe()
    apart = TrainingApart(arguments.parent, arguments.training_thread)
    watch = (arguments.commands, orphaned[1], arguments.parent, apart)
    threading.Thread(target=_heed_parent, args=watch, daemon=True).start()
    pool = np.frombuffer(mmap.mmap(arguments.pool, arguments.pool_nbytes, prot=mmap.PROT_READ), dtype=np.uint8)

    def send(reply: Reply) -> None:
        data = memoryview(to_bytes(reply))
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(arguments.replies, data) :]

    worker = Worker(pool, send, is_training_idle=lambda: bool(pool[TRAINING_IS_IDLE]))
    commands = _commands(arguments.commands, orphaned[0])
    # Linux lets nobody leave SCHED_IDLE without privileges; but it is a thread that is in it, not the process.
    with ThreadPoolExecutor(max_workers=1) as thread:
        is_done = thread.submit(_work, worker, commands, lambda: bool(pool[WORKERS_ARE_RAISED])).result()
    if not is_done:
        _lower_priority("low")
        _work(worker, commands, lambda: False)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # GL and Warp take seconds to tear down, and own nothing that outlives the process.
