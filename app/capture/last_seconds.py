"""The last seconds of each stream, held for `save_last`: a clip that becomes a file only once it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..clip import CaptureRequest, ClipRequest
from .stream import Stream

Begin = Callable[[Stream, ClipRequest], None]
End = Callable[[ClipRequest, int, float, str], None]


class LastSeconds:
    """Decides which captures the rings of the streams want. Belongs to the training thread.

    Args:
        streams: All streams.
        frame_stride: Steps from one frame to the next.
        begin: Called with a stream and its new ring.
        end: Called with a ring, its last step, and how many seconds of it are to be saved under what name.
    """

    def __init__(self, streams: Sequence[Stream], frame_stride: int, *, begin: Begin, end: End) -> None:
        self._streams = streams
        self._stride = frame_stride
        self._begin = begin
        self._end = end
        self._rings: dict[str, ClipRequest] = {}
        self._steps: dict[str, int] = {}
        """The last step that each ring got, or let pass."""
        self._count = 0

    def requests(self, step: int) -> list[tuple[Stream, CaptureRequest]]:
        """Return what the rings want of a step, and did not get yet."""
        return [(stream, request) for stream in self._streams if (request := self.request(stream, step))]

    def request(self, stream: Stream, step: int) -> CaptureRequest | None:
        """Return what one stream's ring wants of a step, if it does; it wants each step once."""
        if step <= self._steps.get(stream.name, -1):
            return None
        self._steps[stream.name] = step
        ring = self._rings.get(stream.name)
        if ring is None:
            ring = self._open(stream, step)
        steps, rest = divmod(step - ring.start_step, self._stride)
        return None if rest else CaptureRequest(clip=ring, step=step, pts=steps)

    def save(self, seconds: float, suffix: str, last_step: int) -> None:
        """Have what is held written as clips, and hold anew from here on."""
        for stream in self._streams:
            ring = self._rings.pop(stream.name, None)
            if ring:
                self._end(ring, last_step, seconds, f"{stream.prefix}-{suffix}")

    def forget(self, last_step: int, stream: str | None = None) -> None:
        """Let go of what is held of one stream, or of all."""
        for name in [stream] if stream else list(self._rings):
            ring = self._rings.pop(name, None)
            if ring:
                self._end(ring, last_step, 0.0, "")

    def holds(self, ring: ClipRequest) -> bool:
        """Whether frames still go into a ring."""
        return self._rings.get(ring.stream) is ring

    def _open(self, stream: Stream, step: int) -> ClipRequest:
        self._count += 1
        ring = ClipRequest(
            name="ring",
            stream=stream.name,
            start_step=step,
            frame_stride=self._stride,
            clip_index=-self._count,  # Those of other clips count up from 0.
            is_ring=True,
        )
        self._begin(stream, ring)
        self._rings[stream.name] = ring
        return ring
