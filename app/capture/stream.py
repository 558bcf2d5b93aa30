"""`Stream`: one backend of a recorder, open, and what the service has to know of it."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from dataclasses import replace

import msgspec

from ..clip import CaptureRequest, ClipRequest
from ..config import RecorderConfig, check_name
from ..errors import BackendError, ConfigurationError, StepreelError, describe
from ..interfaces import ArchivableRenderer, Backend, CaptureFormat, ClipListener, Renderer, RenewableBackend
from ..storage.snapshot_file import archive_members
from ..transport.messages import ArchiveDescription, SourceDescription

DEFAULT = "default"
"""The name of a stream that needs none: it is the only one."""
MOST_NAME_NBYTES = 40
_DEFAULT_STEPS_PER_SECOND = 30.0


class Stream:
    """What one backend captures, and how it is drawn. Belongs to the training thread.

    Attributes:
        name: Tells the streams of a recorder apart, in file names too; `DEFAULT` where there is but one.
        backend: Open; called on the training thread only.
        format: What it says of its captures.
        fps: Frames a second of video.
        capture_nbytes: Bytes of the last capture; 0 before the first, where the backend can't tell.
        version: Counts how often `format` was renewed.
    """

    def __init__(self, name: str, backend: Backend, capture_format: CaptureFormat, config: RecorderConfig) -> None:
        self.name = name
        self.backend = backend
        self.format = capture_format
        rate = capture_format.steps_per_second or _DEFAULT_STEPS_PER_SECOND
        self.fps = float(config.fps or rate / config.frame_stride)
        self._settings = config.encode_settings(fps=self.fps)
        self.capture_nbytes = int(capture_format.nbytes or 0)
        self.version = 0
        # Asked once: to ask at every clip, whether a class fits a protocol, takes a tenth of a millisecond.
        self._renewable = backend if isinstance(backend, RenewableBackend) else None
        self._listener = backend if isinstance(backend, ClipListener) else None
        self._prefix = config.name_prefix
        self.index = 0
        """Its place among the recorder's streams."""
        self._count = 1
        self._clip: tuple[ClipRequest, ClipRequest] | None = None

    @property
    def prefix(self) -> str:
        """What the names of its clips begin with."""
        return self._prefix if self.name == DEFAULT else f"{self._prefix}-{self.name}"

    def set_place(self, index: int, count: int) -> None:
        """Tell which of how many streams it is, so that no two number their clips alike."""
        self.index, self._count = index, count

    def to_description(self) -> SourceDescription:
        """Return what the service has to know. Raises `BackendError` where the renderer can't be sent."""
        form = self.format
        return SourceDescription(
            stream=self.name,
            index=self.index,
            version=self.version,
            backend=self.backend.name,
            prefix=self.prefix,
            width=None if form.width is None else int(form.width),
            height=None if form.height is None else int(form.height),
            nbytes=None if form.nbytes is None else int(form.nbytes),
            fps=self.fps,
            settings=self._settings,
            shares_gpu=form.shares_gpu,
            renderer=b"" if form.renderer is None else _pickled(form.renderer),
            archive=_archived(form.renderer),
            details=dict(form.details),
        )

    def clip(self, clip: ClipRequest) -> ClipRequest:
        """Return its own part of a clip that the schedule asked of all streams."""
        if self._clip is None or self._clip[0] is not clip:
            own = clip
            if self.name != DEFAULT:
                name = self.prefix + clip.name.removeprefix(self._prefix)
                index = clip.clip_index * self._count + self.index
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
        self.capture_nbytes = int(renewed.nbytes or 0)
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
            streams.append(Stream(name, backend, opened, config))
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


def _pickled(renderer: Renderer) -> bytes:
    if type(renderer).__module__ == "__main__":
        raise BackendError(
            f"the renderer {type(renderer).__qualname__} is defined in the script itself, which a worker can't "
            "import; move it to a module"
        )
    try:
        return pickle.dumps(renderer)
    except Exception as exc:
        raise BackendError(f"the renderer {type(renderer).__qualname__} can't be sent to a worker: {exc}") from exc


def _archived(renderer: Renderer | None) -> ArchiveDescription | None:
    """Return what snapshots can be drawn with later, where the renderer can be kept in a file."""
    if not isinstance(renderer, ArchivableRenderer):
        return None
    try:
        archive = renderer.to_archive()
        members = archive_members(archive)
        settings = msgspec.json.encode(dict(archive.settings))
    except Exception as exc:
        raise BackendError(f"the renderer {type(renderer).__qualname__} can't be archived: {describe(exc)}") from exc
    return ArchiveDescription(kind=archive.kind, settings=settings, members=members)
