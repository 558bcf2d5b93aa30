"""What the training process and a worker program say to each other: messages, and their form on a pipe.

A message is a JSON object with a `type`, and, where the type has one, a payload of bytes. On the pipe it is
preceded by the lengths of both, as two big-endian 32-bit numbers. Nothing here does I/O.

    training process                          worker program
    Configure, OpenStream ...      -->
                                   <--        Ready, StreamOpened | StreamFailed
    BeginClip, EncodeFrame ...     -->
                                   <--        SegmentOpened, FrameDone ..., SegmentClosed
    EndClip                        -->
                                   <--        SegmentClosed, ClipDone
    Salvage                        -->
                                   <--        Salvaged
    Finish, or the pipe closed     -->
                                              closes its segments, ends
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from ..clip import Segment
from ..errors import WorkerError

_LENGTHS = struct.Struct(">II")
_MOST_NBYTES = 2**31
"""A longer message is garbage: no model that is sent comes near."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configure:
    """First of all: how to encode, and how to behave."""

    folder: str
    codec: str
    preset: str
    crf: int
    pix_fmt: str
    gop_s: float
    segment_s: float | None
    segment_bytes: int | None
    priority: str
    min_free_bytes: int
    stream_count: int
    """How many `OpenStream` follow before the worker is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStream:
    """What a stream's captures are. The payload is the pickled renderer; empty: the captures are pixels.

    A later `version` of a stream takes the place of the earlier ones, for the clips that begin with it.
    """

    stream: str
    version: int
    width: int | None
    height: int | None
    fps: float
    render_duty: float
    payload: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginClip:
    """Frames of this clip follow; segments are numbered from `first_index`."""

    clip: int
    stream: str
    version: int
    name: str
    start_step: int
    frame_stride: int
    first_index: int
    ring_s: float = 0.0
    """Above 0: hold the last seconds in memory, and write no file before the end."""
    ring_nbytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeFrame:
    """A capture lies in the frame pool. `height` 0: a snapshot."""

    clip: int
    step: int
    pts: int
    offset: int
    nbytes: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndClip:
    """No frame follows; the clip's span ends before `end_pts`."""

    clip: int
    end_pts: int
    saved_as: str = ""
    """Of a clip that is held in memory: its name. Empty: it is forgotten."""
    seconds: float = 0.0
    """How much of it is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvage:
    """Mend the segment that a lost worker left open."""

    clip: int
    part: str
    final: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The worker is configured; `codec` is what opened, or None where no picture size is known yet."""

    codec: str | None
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The worker can't work with this configuration, and ends."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpened:
    """The renderer of a stream is open; `renderer` is what draws."""

    stream: str
    renderer: str
    open_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFailed:
    """The renderer of a stream can not be opened; its frames are dropped."""

    stream: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOpened:
    """Frames go into this segment from now on."""

    clip: int
    file: str
    width: int
    height: int
    codec: str
    padded: bool
    """The video is larger than the frames, because sides had to be even."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentClosed:
    """A segment is whole, and has its final name."""

    clip: int
    segment: Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameDone:
    """The slot is free. `cause` is a drop cause, or empty: the frame went into the open segment."""

    clip: int
    step: int
    cause: str
    message: str
    render_s: float
    encode_s: float
    cpu_s: float
    """Processor time that the worker had meanwhile, of `render_s` and `encode_s` together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentLost:
    """The open segment can't be finished; what it held is gone but for what was salvaged just before.

    `is_kept`: its file is still there, and may be mended later.
    """

    clip: int
    cause: str
    message: str
    is_kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipDone:
    """All that could be encoded of a clip is in closed segments."""

    clip: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvaged:
    """What is left of an open segment; `SegmentLost` follows, for the rest."""

    clip: int
    segment: Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSaved:
    """What was held of a clip's last seconds is a segment now; `SegmentClosed` follows. No steps: nothing was held."""

    clip: int
    steps: list[int]
    width: int
    height: int
    codec: str
    cause: str
    """A drop cause where it could not be written, else empty."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Nothing follows. As good as the end of the pipe, which a forked process may hold open."""


Command = Finish | Configure | OpenStream | BeginClip | EncodeFrame | EndClip | Salvage
Reply = (
    Ready
    | Refused
    | StreamOpened
    | StreamFailed
    | SegmentOpened
    | SegmentClosed
    | SegmentLost
    | FrameDone
    | ClipDone
    | Salvaged
    | RingSaved
)
Message = Command | Reply
MessageT = TypeVar("MessageT", bound=Message)

_TYPES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Finish,
        Configure,
        OpenStream,
        BeginClip,
        EncodeFrame,
        EndClip,
        Salvage,
        Ready,
        Refused,
        StreamOpened,
        StreamFailed,
        SegmentOpened,
        SegmentClosed,
        SegmentLost,
        FrameDone,
        ClipDone,
        Salvaged,
        RingSaved,
    )
}


def to_bytes(message: Message) -> bytes:
    """Return the message as it goes over a pipe."""
    body: dict[str, Any] = {field.name: getattr(message, field.name) for field in fields(message)}
    payload: bytes = body.pop("payload", b"")
    if "segment" in body:
        body["segment"] = asdict(body["segment"])
    body["type"] = type(message).__name__
    header = json.dumps(body, separators=(",", ":")).encode()
    return b"".join((_LENGTHS.pack(len(header), len(payload)), header, payload))


class MessageReader:
    """Bytes in, messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take what a pipe gave; yield every message that is whole.

        Raises:
            WorkerError: the bytes are no message.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTHS.size:
            header_nbytes, payload_nbytes = _LENGTHS.unpack_from(self._buffer)
            end = _LENGTHS.size + header_nbytes + payload_nbytes
            if end > _MOST_NBYTES:
                raise WorkerError(f"a message of {end} bytes was announced on a worker's pipe")
            if len(self._buffer) < end:
                return
            message = bytes(self._buffer[_LENGTHS.size : end])
            del self._buffer[:end]
            yield _parse(message[:header_nbytes], message[header_nbytes:])


def _parse(header: bytes, payload: bytes) -> Message:
    try:
        body = json.loads(header)
        kind = _TYPES[body.pop("type")]
        if payload:
            body["payload"] = payload
        if "segment" in body:
            body["segment"] = Segment(**body["segment"])
        message: Message = kind(**body)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise WorkerError(f"not a message: {header[:200]!r}") from exc
    return message
