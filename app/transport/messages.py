"""Messages between training and its recording service: in the journal, in the description, and over their socket."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..clip import Clip, Segment
from ..config import DropPolicy, EncodeSettings, RenderTime, WorkerPriority
from ..errors import WorkerError

_LENGTH = struct.Struct(">I")
_MOST_NBYTES = 2**30
_MOST_DEPTH = 8


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What all messages have in common: checked as they are read."""


class ArchiveDescription(Message, frozen=True, kw_only=True):
    """What a renderer can be made from again, as `RendererArchive` says."""

    kind: str
    settings: bytes
    """JSON."""
    members: list[tuple[str, bytes]]
    """Names and NPY files of its arrays."""


class SourceDescription(Message, frozen=True, kw_only=True):
    """What a stream's captures are, for the clips that begin under one version of it."""

    stream: str
    index: int
    """Its place among the recorder's streams."""
    version: int
    backend: str
    prefix: str
    """What the names of its clips begin with."""
    width: int | None
    height: int | None
    nbytes: int | None
    fps: float
    settings: EncodeSettings
    """How its clips are encoded."""
    shares_gpu: bool
    renderer: bytes
    """Pickled; empty: the captures are pixels."""
    archive: ArchiveDescription | None
    details: dict[str, Any]

    @property
    def key(self) -> tuple[str, int]:
        """What identifies it."""
        return self.stream, self.version


class Deadlines(Message, frozen=True, kw_only=True):
    """How long somebody may be silent who has been asked for something [s]."""

    start_s: float = 60.0
    """Until a worker is ready."""
    answer_s: float = 300.0
    """Until a worker with anything to do says something: longer than a first frame's kernels compile."""
    end_s: float = 5.0
    """Until a worker that was told so has ended."""


class ServiceDescription(Message, frozen=True, kw_only=True):
    """All that a service has to know of its recorder."""

    folder: bytes
    """A path, which need not be text."""
    folder_is_shared: bool
    """Somebody else records into it."""
    stem: str
    """What the session's files are called."""
    started_at: str
    program: str
    training_process: int
    training_thread: int
    environment: dict[str, str]
    """Variables that workers start with."""
    sources: list[SourceDescription]
    configuration: dict[str, Any]
    """Every setting, for the session file."""
    keep_last_n_clips: int | None
    ring_s: float | None
    ring_bytes: int
    min_free_bytes: int
    queue_depth: int
    queue_bytes: int
    drop_policy: DropPolicy
    render: RenderTime
    durable_snapshots: bool
    worker_count: int
    worker_priority: WorkerPriority
    render_duty: float | None
    strict: bool
    has_hooks: bool
    """Training calls hooks: a clip is not deleted before its hook was called."""
    deadlines: Deadlines

    @property
    def path(self) -> Path:
        """The output folder."""
        return Path(os.fsdecode(self.folder))


class ClipBegan(Message, frozen=True, kw_only=True):
    """Text of `Kind.CLIP_BEGAN`."""

    name: str
    stream: str
    version: int
    start_step: int
    frame_stride: int
    is_ring: bool
    is_undecided: bool
    """Whether it stays is decided later."""


class ClipEnded(Message, frozen=True, kw_only=True):
    """Text of `Kind.CLIP_ENDED`."""

    has_failed: bool = False
    """It could not go on, whatever it holds by now."""
    seconds: float = 0.0
    """Of the last seconds that are held: how much is to be written."""
    name: str = ""
    """What that clip is called."""


class Trouble(Message, frozen=True, kw_only=True):
    """Text of `Kind.TROUBLE`: something to log."""

    event: str
    kind: str
    count: int
    facts: dict[str, Any]


# Over the socket, to the service


class Flush(Message, frozen=True, kw_only=True, tag=True):
    """Somebody waits until all up to a place of the journal is done."""

    token: int
    head: int


class Close(Message, frozen=True, kw_only=True, tag=True):
    """The recorder is closed; what follows in the journal says so, too."""

    somebody_waits: bool
    drop_waiting: bool
    """Drop what no worker has begun."""


class Noted(Message, frozen=True, kw_only=True, tag=True):
    """Something that training has to tell the session's log, and its caller has heard of."""

    event: str
    facts: dict[str, Any]


class Heard(Message, frozen=True, kw_only=True, tag=True):
    """The hooks of a closed clip were called."""

    clip: int


# Over the socket, to training


class Opened(Message, frozen=True, kw_only=True, tag=True):
    """A worker is ready, or none is wanted."""

    codec: str | None


class Refused(Message, frozen=True, kw_only=True, tag=True):
    """Nothing can be recorded."""

    message: str
    is_codec: bool
    """The codec, preset or pixel format can't be used here."""


class Logged(Message, frozen=True, kw_only=True, tag=True):
    """An event, for the caller's log."""

    event: str
    level: str
    facts: dict[str, Any]


class SegmentReady(Message, frozen=True, kw_only=True, tag=True):
    """A segment is whole on disk."""

    clip: Clip
    segment: Segment


class ClipReady(Message, frozen=True, kw_only=True, tag=True):
    """A clip's last manifest is on disk."""

    index: int
    clip: Clip


class FramesLost(Message, frozen=True, kw_only=True, tag=True):
    """Frames were lost, which a strict recorder raises."""

    reason: str


class Flushed(Message, frozen=True, kw_only=True, tag=True):
    """The answer to `Flush`."""

    token: int


class Ended(Message, frozen=True, kw_only=True, tag=True):
    """The service has done all there was, and ends."""


ToService = Flush | Close | Noted | Heard
ToTraining = Opened | Refused | Logged | SegmentReady | ClipReady | FramesLost | Flushed | Ended
MessageT = TypeVar("MessageT")


def encode(message: object) -> bytes:
    """Return a message as bytes; what has no form of its own there goes as text."""
    return msgspec.msgpack.encode(message, enc_hook=_to_plain)


def sendable(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts for the log as what any message can carry: whatever has no form there goes as text, cut to it."""
    return {_to_text(name): _to_fact(value, _MOST_DEPTH) for name, value in facts.items()}


def decode(data: bytes | memoryview, kind: type[MessageT]) -> MessageT:
    """Return a message.

    Raises:
        WorkerError: the bytes are no such message.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind, dec_hook=_from_plain)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise WorkerError(f"not a {getattr(kind, '__name__', kind)}: {exc}") from exc


def to_frame(message: ToService | ToTraining) -> bytes:
    """Return a message as it goes over the socket: its length, big-endian, and its bytes."""
    data = encode(message)
    return _LENGTH.pack(len(data)) + data


class FrameReader:
    """Bytes of a socket in, messages out.

    Args:
        kind: `ToService` or `ToTraining`.
    """

    def __init__(self, kind: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Take what came; yield every message that is whole.

        Raises:
            WorkerError: the bytes are no message.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (nbytes,) = _LENGTH.unpack_from(self._buffer)
            if nbytes > _MOST_NBYTES:
                raise WorkerError(f"a message of {nbytes} bytes was announced")
            if len(self._buffer) < _LENGTH.size + nbytes:
                return
            data = bytes(self._buffer[_LENGTH.size : _LENGTH.size + nbytes])
            del self._buffer[: _LENGTH.size + nbytes]
            try:
                message = self._decoder.decode(data)
            except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
                raise WorkerError(f"not a message: {exc}") from exc
            yield message


def _to_plain(value: object) -> object:
    """Return a value that has no form of its own as one that has: a fraction as its two numbers, the rest as text."""
    if isinstance(value, Fraction):
        return value.numerator, value.denominator
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    try:
        return str(value).encode("utf-8", "replace").decode()
    except BaseException:  # noqa: BLE001 - a value of somebody else's, in a line of the log.
        return type(value).__name__


def _to_fact(value: object, depth: int) -> object:
    match value:
        case str():
            return _to_text(value)
        case int() if not -(2**63) <= value < 2**64:
            return _to_text(value)
        case Mapping() | list() | tuple() | set() | frozenset() if not depth:
            return type(value).__name__
        case Mapping():
            return {_to_text(name): _to_fact(one, depth - 1) for name, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_to_fact(one, depth - 1) for one in value]
    return value


def _to_text(value: object) -> str:
    # Half of a surrogate pair, such as a file's name that is no text, can be sent nowhere.
    return str(_to_plain(value) if not isinstance(value, str) else value).encode("utf-8", "replace").decode()


def _from_plain(kind: type, value: Any) -> object:
    if kind is Fraction:
        return Fraction(*value)
    raise ValueError(f"{kind.__name__}: got {value!r}"[:200])
