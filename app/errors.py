"""The errors that reach a caller. Each message says what was tried, what was found, and what to do."""

from __future__ import annotations

from .clip import DropCause

_MOST_CHARACTERS = 500


def describe(exc: BaseException) -> str:
    """Return an exception as one line of at most 500 characters: `TypeName: text`.

    The name alone where there is no text, or none to be had: a `str()` of somebody else's exception may raise.
    """
    name = type(exc).__name__
    try:
        text = " ".join(str(exc).split())
        line = f"{name}: {text}" if text else name
        # Half of a surrogate pair, such as a file's name that is no text, can be sent and stored nowhere.
        return line.encode("utf-8", "replace").decode()[:_MOST_CHARACTERS]
    except BaseException:  # noqa: BLE001 - whatever `str()` raises takes no more than the text.
        return name[:_MOST_CHARACTERS]


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
