"""What the recording service and a worker program say to each other: messages, and their form on a pipe.

On the pipe a message is msgpack, its length before it as a big-endian 32-bit number. Whoever reads it gets either a
message whose fields are of the types given here, or a `WorkerError`. Nothing here does I/O.

    recording service                         worker program
    Configure, OpenStream ...      -->
                                   <--        Ready, StreamOpened | StreamFailed
    BeginClip, EncodeFrame ...     -->
                                   <--        SegmentOpened, FrameDone ..., SegmentClosed
    EndClip                        -->
                                   <--        SegmentClosed, ClipDone
    Remux                          -->
                                   <--        Remuxed, SegmentLost
    Finish, or the pipe closed     -->
                                              closes its segments, ends
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from ..clip import DropCause, Segment
from ..config import EncodeSettings, WorkerPriority
from ..errors import WorkerError, describe

Count = Annotated[int, msgspec.Meta(ge=0)]
_LENGTH = struct.Struct(">I")
_MOST_NBYTES = 2**31
"""A longer message is garbage: no model that is sent comes near."""


class _Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    pass


class Configure(_Message, frozen=True, kw_only=True):
    """First of all: where to write, and how to behave."""

    folder: Path
    priority: WorkerPriority
    min_free_bytes: Count
    stream_count: Count
    """How many `OpenStream` follow before the worker is ready."""


class OpenStream(_Message, frozen=True, kw_only=True):
    """What a stream's captures are, and how its clips are encoded.

    A later `version` of a stream takes the place of the earlier ones, for the clips that begin with it.
    """

    stream: str
    version: int
    width: int | None
    height: int | None
    settings: EncodeSettings
    render_duty: float
    payload: bytes = b""
    """The pickled renderer; empty: the captures are pixels."""


class BeginClip(_Message, frozen=True, kw_only=True):
    """Frames of this clip follow; segments are numbered from `first_index`."""

    clip: int
    stream: str
    version: int
    name: str
    start_step: int
    frame_stride: Annotated[int, msgspec.Meta(ge=1)]
    first_index: Count
    ring_s: float = 0.0
    """Above 0: hold the last seconds in memory, and write no file before the end."""
    ring_nbytes: Count = 0


class EncodeFrame(_Message, frozen=True, kw_only=True):
    """A capture lies in the shared memory. `height` 0: a snapshot."""

    clip: int
    step: int
    pts: Count
    offset: Count
    nbytes: Count
    height: Count
    width: Count


class EndClip(_Message, frozen=True, kw_only=True):
    """No frame follows; the clip's span ends before `end_pts`."""

    clip: int
    end_pts: Count
    saved_as: str = ""
    """Of a clip that is held in memory: its name. Empty: it is forgotten."""
    seconds: float = 0.0
    """How much of it is written."""


class Remux(_Message, frozen=True, kw_only=True):
    """Close the segment that a lost worker left open, as far as it can be read."""

    clip: int
    part: str
    final: str


class Finish(_Message, frozen=True, kw_only=True):
    """Nothing follows. As good as the end of the pipe, which a forked process may hold open."""


class Ready(_Message, frozen=True, kw_only=True):
    """The worker is configured; `codec` is what opened, or None where no picture size is known yet."""

    codec: str | None
    versions: dict[str, str]


class Refused(_Message, frozen=True, kw_only=True):
    """The worker can't work with this configuration, and ends."""

    message: str


class StreamOpened(_Message, frozen=True, kw_only=True):
    """The renderer of a stream is open; `renderer` is what draws."""

    stream: str
    renderer: str
    open_s: float


class StreamFailed(_Message, frozen=True, kw_only=True):
    """The renderer of a stream can not be opened; its frames are dropped."""

    stream: str
    message: str


class SegmentOpened(_Message, frozen=True, kw_only=True):
    """Frames go into this segment from now on."""

    clip: int
    file: str
    width: Count
    height: Count
    codec: str
    padded: bool
    """The video is larger than the frames, because sides had to be even."""


class SegmentClosed(_Message, frozen=True, kw_only=True):
    """A segment is whole, and has its final name."""

    clip: int
    segment: Segment


class FrameDone(_Message, frozen=True, kw_only=True):
    """The slot is free. No `cause`: the frame went into the open segment."""

    clip: int
    step: int
    cause: DropCause | None
    message: str
    render_s: float
    encode_s: float
    cpu_s: float
    """Processor time that the worker had meanwhile, of `render_s` and `encode_s` together."""


class SegmentLost(_Message, frozen=True, kw_only=True):
    """The open segment can't be finished; what it held is gone but for what `Remuxed` said just before.

    `is_kept`: its file is still there, and may be closed later.
    """

    clip: int
    cause: DropCause
    message: str
    is_kept: bool


class ClipDone(_Message, frozen=True, kw_only=True):
    """All that could be encoded of a clip is in closed segments."""

    clip: int


class Remuxed(_Message, frozen=True, kw_only=True):
    """What is left of an open segment; `SegmentLost` follows, for the rest."""

    clip: int
    segment: Segment


class RingSaved(_Message, frozen=True, kw_only=True):
    """What was held of a clip's last seconds is a segment now; `SegmentClosed` follows. No steps: nothing was held."""

    clip: int
    steps: list[int]
    width: Count
    height: Count
    codec: str
    cause: DropCause | None
    """Why it could not be written; None: it was, or there was nothing."""
    message: str


Command = Configure | OpenStream | BeginClip | EncodeFrame | EndClip | Remux | Finish
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
    | Remuxed
    | RingSaved
)
Message = Command | Reply
MessageT = TypeVar("MessageT")


def to_bytes(message: Message) -> bytes:
    """Return the message as it goes over a pipe. Raises `TypeError` where it is none, or holds what can't be sent."""
    if not isinstance(message, _Message):
        raise TypeError(f"{type(message).__name__} is no message")  # The fault is here, not with whoever reads it.
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class MessageReader(Generic[MessageT]):
    """Bytes in, messages of one direction out; see `command_reader` and `reply_reader`."""

    def __init__(self, kind: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[MessageT] = msgspec.msgpack.Decoder(kind, dec_hook=_from_plain)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[MessageT]:
        """Take what a pipe gave; yield every message that is whole.

        Raises:
            WorkerError: the bytes are no message of this direction.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if end > _MOST_NBYTES:
                raise WorkerError(f"a message of {end} bytes was announced on a worker's pipe")
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield self._decode(body)

    def _decode(self, body: bytes) -> MessageT:
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            raise WorkerError(f"not a message: {body[:200]!r} ({describe(exc)})") from exc


def command_reader() -> MessageReader[Command]:
    """Return what a worker reads its commands with."""
    return MessageReader(Command)


def reply_reader() -> MessageReader[Reply]:
    """Return what the recording service reads a worker's replies with."""
    return MessageReader(Reply)


def _to_plain(value: object) -> object:
    """Return a value that msgpack has no type for as one that it has."""
    match value:
        case Path():
            return os.fsencode(value)  # A path need not be text.
        case Fraction(numerator=numerator, denominator=denominator):
            return numerator, denominator
        case Integral():  # numpy's numbers among them.
            return int(value)
        case Real():
            return float(value)
        case str():
            return str(value)
    raise TypeError(f"{type(value).__name__} can't be sent")


def _from_plain(kind: type, value: Any) -> object:
    if kind is Path and isinstance(value, bytes):
        return Path(os.fsdecode(value))
    if kind is Fraction and value and all(type(one) is int and one for one in value):
        return Fraction(*value)
    raise ValueError(f"{kind.__name__}: got {value!r}"[:200])


_encoder = msgspec.msgpack.Encoder(enc_hook=_to_plain)
