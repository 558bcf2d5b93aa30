"""`Stream`: one backend of a recorder, open, as both halves of the path see it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from .clip import CaptureRequest, ClipRequest
from .config import RecorderConfig, check_name
from .errors import ConfigurationError, StepreelError
from .interfaces import Backend, CaptureFormat, ClipListener, RenewableBackend

DEFAULT = "default"
"""The name of a stream that needs none: it is the only one."""
MOST_NAME_NBYTES = 40
_DEFAULT_STEPS_PER_SECOND = 30.0


class Stream:
    """What one backend captures, and how it is drawn.

    Attributes:
        name: Tells the streams of a recorder apart, in file names too; `DEFAULT` where there is but one.
        backend: Open; called on the training thread only.
        format: What it says of its captures.
        fps: Frames a second of video.
        capture_nbytes: Bytes of the last capture; 0 before the first, where the backend can't tell.
        version: Counts how often `format` was renewed.
    """

    def __init__(self, name: str, backend: Backend, capture_format: CaptureFormat, *, fps: float, prefix: str) -> None:
        self.name = name
        self.backend = backend
        self.format = capture_format
        self.fps = fps
        self.capture_nbytes = capture_format.nbytes or 0
        self.version = 0
        # Asked once: to ask at every clip, whether a class fits a protocol, takes a tenth of a millisecond.
        self._renewable = backend if isinstance(backend, RenewableBackend) else None
        self._listener = backend if isinstance(backend, ClipListener) else None
        self._prefix = prefix
        self._place = 0
        self._count = 1
        self._clip: tuple[ClipRequest, ClipRequest] | None = None

    @property
    def prefix(self) -> str:
        """What the names of its clips begin with."""
        return self._prefix if self.name == DEFAULT else f"{self._prefix}-{self.name}"

    def set_place(self, place: int, count: int) -> None:
        """Tell which of how many streams it is, so that no two number their clips alike."""
        self._place, self._count = place, count

    def clip(self, clip: ClipRequest) -> ClipRequest:
        """Return its own part of a clip that the schedule asked of all streams."""
        if self._clip is None or self._clip[0] is not clip:
            own = clip
            if self.name != DEFAULT:
                name = self.prefix + clip.name.removeprefix(self._prefix)
                index = clip.clip_index * self._count + self._place
                own = replace(clip, name=name, stream=self.name, clip_index=index)
            self._clip = clip, own
        return self._clip[1]

    def request(self, request: CaptureRequest) -> CaptureRequest:
        """Return its own part of a capture that the schedule asked of all streams."""
        own = self.clip(request.clip)
        return request if own is request.clip else replace(request, clip=own)

    def renew(self) -> bool:
        """Take over what has changed in the simulator since the clip before; return whether anything has."""
        renewed = self._renewable.renewed() if self._renewable else None
        if renewed is None:
            return False
        self.format = renewed
        self.capture_nbytes = renewed.nbytes or 0
        self.version += 1
        return True

    def begin(self, clip: ClipRequest) -> None:
        """Tell a backend that wants to know that a clip opens."""
        if self._listener:
            self._listener.clip_began(clip)

    def end(self, clip: ClipRequest) -> None:
        """Tell a backend that wants to know that no capture of a clip follows."""
        if self._listener:
            self._listener.clip_ended(clip)


def open_streams(config: RecorderConfig, backends: Backend | Mapping[str, Backend]) -> tuple[Stream, ...]:
    """Open one backend, or several by their names.

    Raises:
        ConfigurationError: a name that can't be part of a file name, or no backend at all.
        BackendError: a simulator can't be recorded. Those opened before it are closed again.
    """
    named = dict(backends) if isinstance(backends, Mapping) else {DEFAULT: backends}
    _check_names(named, config.name_prefix)
    streams: list[Stream] = []
    try:
        for name, backend in named.items():
            opened = backend.open(width=config.width, height=config.height, worker_device=config.worker_device)
            rate = opened.steps_per_second or _DEFAULT_STEPS_PER_SECOND
            fps = config.fps or rate / config.frame_stride
            streams.append(Stream(name, backend, opened, fps=fps, prefix=config.name_prefix))
        worker_environment(streams)
    except BaseException:
        for stream in streams:
            stream.backend.close()
        raise
    for place, stream in enumerate(streams):
        stream.set_place(place, len(streams))
    return tuple(streams)


def worker_environment(streams: Iterable[Stream]) -> dict[str, str]:
    """Return the environment variables that a worker needs to draw every stream.

    Raises:
        ConfigurationError: two streams want one of them otherwise.
    """
    environment: dict[str, str] = {}
    for stream in streams:
        for variable, value in stream.format.worker_environment.items():
            if environment.setdefault(variable, value) != value:
                raise ConfigurationError(
                    f"the streams want {variable} to be {environment[variable]!r} and {value!r} (stream "
                    f"{stream.name!r}), and are drawn in the same workers; use a recorder for each"
                )
    return environment


def _check_names(named: Mapping[str, Backend], prefix: str) -> None:
    if not named:
        raise ConfigurationError("backend: got no stream at all; allowed: a backend, or a mapping of names to backends")
    for name in named:
        allowed = check_name(name)
        if allowed or len(name.encode()) > MOST_NAME_NBYTES:
            allowed = allowed or f"at most {MOST_NAME_NBYTES} bytes"
            raise ConfigurationError(f"stream: got {name!r}; allowed: {allowed}, since files are named after it")
    longest = max(named, key=lambda name: len(name.encode()))
    if check_name(f"{prefix}-{longest}"):
        raise ConfigurationError(f"stream: {longest!r} is too long a name together with name_prefix {prefix!r}")


def stream_of(streams: Iterable[Stream], name: str) -> Stream:
    """Return the stream of that name.

    Raises:
        StepreelError: there is none.
    """
    for stream in streams:
        if stream.name == name:
            return stream
    raise StepreelError(f"there is no stream {name!r}")
