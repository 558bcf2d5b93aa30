"""stepreel records video clips of a simulation while a policy trains in it, without the training noticing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import add_video_arguments
    from .blocking import Recorder
    from .clip import Clip, ClipState, DropCause, FrameCounts, Segment
    from .config import DropPolicy, Episode, Finish, RecorderConfig, RenderTime, WorkerPriority
    from .errors import (
        BackendError,
        CaptureError,
        CodecUnavailableError,
        ConfigurationError,
        EncodeError,
        HookError,
        OutputError,
        RecorderClosedError,
        RecordingError,
        RendererUnavailableError,
        RenderModeError,
        SourceUnavailableError,
        StepreelError,
        WorkerError,
    )
    from .recorder import AsyncRecorder
    from .statistics import Percentiles, Statistics, Summary

__all__ = [
    "AsyncRecorder",
    "BackendError",
    "CaptureError",
    "Clip",
    "ClipState",
    "CodecUnavailableError",
    "ConfigurationError",
    "DropCause",
    "DropPolicy",
    "EncodeError",
    "Episode",
    "Finish",
    "FrameCounts",
    "HookError",
    "OutputError",
    "Percentiles",
    "Recorder",
    "RecorderClosedError",
    "RecorderConfig",
    "RecordingError",
    "RenderModeError",
    "RenderTime",
    "RendererUnavailableError",
    "Segment",
    "SourceUnavailableError",
    "Statistics",
    "StepreelError",
    "Summary",
    "WorkerError",
    "WorkerPriority",
    "add_video_arguments",
]

_HOMES = {
    "arguments": ("add_video_arguments",),
    "blocking": ("Recorder",),
    "clip": ("Clip", "ClipState", "DropCause", "FrameCounts", "Segment"),
    "config": ("DropPolicy", "Episode", "Finish", "RecorderConfig", "RenderTime", "WorkerPriority"),
    "recorder": ("AsyncRecorder",),
    "statistics": ("Percentiles", "Statistics", "Summary"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # A type checker knows the names from above, and that there are no others.

    def __getattr__(name: str) -> Any:
        """Load a public name's module when the name is first used: a worker and the command line need few of them."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f".{_HOME_OF.get(name, 'errors')}", __name__), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted(__all__)
