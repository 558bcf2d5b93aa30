"""The errors that reach a caller. Each message says what was tried, what was found, and what to do."""

from __future__ import annotations

from .clip import DropCause


class StepreelError(Exception):
    """Base of every error that stepreel raises on purpose."""


class ConfigurationError(StepreelError, ValueError):
    """A setting that can't work: raised at construction, names the field, the value and what is allowed."""


class OutputError(StepreelError):
    """The output folder can't be made, read or written."""


class BackendError(StepreelError):
    """A backend can't be opened on what it was given."""


class RenderModeError(ConfigurationError, BackendError, AssertionError):
    """An environment was made with a `render_mode` that gives no pictures.

    A `ValueError`, as Gymnasium raises it, and an `AssertionError`, as Stable-Baselines3 does.
    """


class RendererUnavailableError(BackendError):
    """Nothing on this machine can draw the snapshots of a backend."""


class SourceUnavailableError(BackendError):
    """A scene has no such source of pictures; the message names what was found and what to pass instead."""


class CaptureError(StepreelError):
    """A picture or snapshot can't be taken, or isn't of the announced dtype, shape or size."""


class SourceChangedError(CaptureError):
    """The simulator is no longer the one that the clip began with: nothing more of this clip can be captured."""


class EncodeError(StepreelError):
    """A segment can't be encoded or written."""

    def __init__(self, message: str, *, cause: DropCause = DropCause.ENCODE_FAILED) -> None:
        super().__init__(message)
        self.cause = cause
        """Why the frames of the segment are lost: `DISK_FULL` where there is no room, else `ENCODE_FAILED`."""


class CodecUnavailableError(ConfigurationError):
    """No encoder of the asked name opens on this machine."""


class WorkerError(StepreelError):
    """A worker program can't be started, or broke the protocol."""


class RecorderClosedError(StepreelError, RuntimeError):
    """A recorder was used before it was opened, or after it was closed."""


class RecordingError(StepreelError):
    """Raised by a strict recorder, from the call after the one in which frames were lost."""


class HookError(StepreelError):
    """A hook can't take another clip."""


def describe(exc: BaseException) -> str:
    """Return an exception as one line of at most 500 characters; also one whose `str()` raises."""
    try:
        text = " ".join(str(exc).split())
    except BaseException:  # noqa: BLE001 - somebody else's exception, whatever it does.
        text = ""
    name = type(exc).__name__
    return (f"{name}: {text}" if text else name)[:500]
