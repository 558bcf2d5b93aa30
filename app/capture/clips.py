"""Clips as training tells of them: begun, captured and ended for each stream, decided about, in the journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..clip import CaptureRequest, ClipRequest
from ..errors import describe
from ..scheduling.retention import Decision
from ..transport.journal import JournalWriter, Kind
from ..transport.messages import ClipBegan, ClipEnded, encode
from ..transport.shared_memory import SharedMemory, TrainingWord
from .captures import Captures
from .frame_pool import FramePool
from .last_seconds import LastSeconds
from .stream import Stream, stream_of
from .warnings import Warnings


class Clips:
    """Performs for every stream what the schedule asks for once. Belongs to the training thread.

    Attributes:
        last_step: Returns the last step counted.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        memory: SharedMemory,
        journal: JournalWriter,
        pool: FramePool,
        captures: Captures,
        warnings: Warnings,
        last_step: Callable[[], int],
    ) -> None:
        self.streams = streams
        self._unclosed = list(streams)
        self.last_step = last_step
        self.last_seconds: LastSeconds | None = None
        self.decides_later = False
        """Whether clips wait for a decision about whether they stay."""
        self._words = memory.training
        self._journal = journal
        self._pool = pool
        self._captures = captures
        self._warnings = warnings
        self._open: dict[int, ClipRequest] = {}
        """Clips that were told of, and whose end was not."""
        captures.source_changed = self._end_changed

    def hold_last_seconds(self, frame_stride: int) -> None:
        """Hold the last seconds of every stream from here on."""
        self.last_seconds = LastSeconds(self.streams, frame_stride, begin=self._begin, end=self._end)
        self._captures.twin = self._twin

    def begin(self, clip: ClipRequest) -> None:
        """Open a clip of each stream."""
        for stream in self.streams:
            self._begin(stream, stream.clip(clip))

    def capture(self, request: CaptureRequest) -> None:
        """Capture a step of each stream."""
        for stream in self.streams:
            self._capture(stream, stream.request(request))

    def capture_last_seconds(self) -> None:
        """Capture what is held of the step just counted."""
        if self.last_seconds:
            for stream, request in self.last_seconds.requests(self.last_step()):
                self._capture(stream, request)

    def end(self, clip: ClipRequest, end_step: int) -> None:
        """End a clip of each stream."""
        for stream in self.streams:
            self._end(stream.clip(clip), end_step)

    def decide(self, decision: Decision) -> None:
        """Tell which clips stay."""
        count = len(self.streams)
        for clips, stays in ((decision.kept, 1), (decision.discarded, 0)):
            for index in (clip * count + stream.index for clip in clips for stream in self.streams):
                self._journal.write(Kind.CLIP_DECIDED, clip=index, pts=stays)

    def close_backends(self) -> None:
        """Close every backend, once; what an interruption left is closed by the next call."""
        while self._unclosed:
            stream = self._unclosed.pop(0)
            try:
                stream.backend.close()
            except KeyboardInterrupt:
                raise
            except BaseException as exc:  # noqa: BLE001 - the recording is done; it is logged.
                self._warn_of_backend(exc)

    def _warn_of_backend(self, exc: BaseException) -> None:
        """Have it logged that a backend failed outside of a capture."""
        error = describe(exc)
        self._warnings.warn("backend.failed", type(exc).__name__, error=error)
        self._captures.lost(f"the backend failed: {error}")

    def _begin(self, stream: Stream, clip: ClipRequest) -> None:
        self._words[TrainingWord.CLIPS_OPEN] += 1  # Before anything of it is leased.
        self._renew(stream)
        self._tell_backend(stream.begin, clip)
        began = ClipBegan(
            name=clip.name,
            stream=clip.stream,
            version=stream.version,
            start_step=clip.start_step,
            frame_stride=clip.frame_stride,
            is_ring=clip.is_ring,
            is_undecided=self.decides_later and not clip.is_ring,
        )
        self._journal.write(Kind.CLIP_BEGAN, clip=clip.clip_index, step=clip.start_step, text=encode(began))
        self._open[clip.clip_index] = clip
        if not clip.is_ring:
            self._words[TrainingWord.CLIPS] += 1

    def _renew(self, stream: Stream) -> None:
        """Take over what has changed in the simulator, and tell of it."""
        try:
            if not stream.renew():
                return
            data = encode(stream.to_description())
            slot = self._pool.lease()
            slot.array(len(data))[:] = bytearray(data)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # noqa: BLE001 - captures fail from here on, and say why.
            self._warn_of_backend(exc)
            return
        if self.last_seconds:  # What is held is of a simulator that is no more.
            self.last_seconds.forget(self.last_step(), stream.name)
        # Its memory is never released: a service that takes over reads it again.
        self._journal.write(Kind.STREAM_RENEWED, offset=slot.offset, nbytes=len(data))

    def _capture(self, stream: Stream, request: CaptureRequest) -> None:
        # Not open where an interruption came between the schedule and the opening of the clip.
        if request.clip.clip_index in self._open:
            self._captures.capture(stream, request)

    def _end(
        self, clip: ClipRequest, end_step: int, seconds: float = 0.0, name: str = "", failed: bool = False
    ) -> None:
        if self._open.pop(clip.clip_index, None) is None:
            return
        self._tell_backend(stream_of(self.streams, clip.stream).end, clip)
        text = encode(ClipEnded(has_failed=failed, seconds=float(seconds), name=name))
        self._captures.after_captures(lambda: self._tell_end(clip, end_step, text))

    def _tell_end(self, clip: ClipRequest, end_step: int, text: bytes) -> None:
        self._journal.write(Kind.CLIP_ENDED, clip=clip.clip_index, step=end_step, text=text)
        self._words[TrainingWord.CLIPS_OPEN] -= 1

    def _end_changed(self, request: CaptureRequest) -> None:
        """End a clip whose simulator has become another one."""
        if request.clip.is_ring and self.last_seconds:
            self.last_seconds.forget(request.step, request.clip.stream)
        else:
            self._end(request.clip, request.step, failed=True)

    def _twin(self, request: CaptureRequest) -> CaptureRequest | None:
        """Return what the ring wants of a step that is captured for a clip."""
        if self.last_seconds is None or request.clip.is_ring:
            return None
        return self.last_seconds.request(stream_of(self.streams, request.clip.stream), request.step)

    def _tell_backend(self, call: Callable[[ClipRequest], None], clip: ClipRequest) -> None:
        try:
            call(clip)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever a simulator raises costs no clip, and not the training.
            self._warn_of_backend(exc)
