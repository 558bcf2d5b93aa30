"""stepreel records video clips of a simulation while a policy trains in it, without the training noticing."""

from .blocking import Recorder
from .clip import Clip, ClipState, DropCause, FrameCounts, Segment
from .config import DropPolicy, RecorderConfig, WorkerPriority
from .errors import (
    BackendError,
    CaptureError,
    CodecUnavailableError,
    ConfigurationError,
    EncodeError,
    OutputError,
    RecorderClosedError,
    RecordingError,
    RendererUnavailableError,
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
    "FrameCounts",
    "OutputError",
    "Percentiles",
    "Recorder",
    "RecorderClosedError",
    "RecorderConfig",
    "RecordingError",
    "RendererUnavailableError",
    "Segment",
    "Statistics",
    "StepreelError",
    "Summary",
    "WorkerError",
    "WorkerPriority",
]
