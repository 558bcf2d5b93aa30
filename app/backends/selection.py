"""`select_backend`: which source of pictures a scene has. The public import path of `isaaclab.selection`."""

from __future__ import annotations

from .isaaclab.selection import (
    BackendKind,
    BackendSource,
    CameraChoice,
    CameraKind,
    Channel,
    Choice,
    OriginType,
    Physics,
    SceneDescription,
    SensorDescription,
    SourceKind,
    Viewpoint,
    VisualizerDescription,
    nearest_worlds,
    place_camera,
    select_backend,
)

__all__ = [
    "BackendKind",
    "BackendSource",
    "CameraChoice",
    "CameraKind",
    "Channel",
    "Choice",
    "OriginType",
    "Physics",
    "SceneDescription",
    "SensorDescription",
    "SourceKind",
    "Viewpoint",
    "VisualizerDescription",
    "nearest_worlds",
    "place_camera",
    "select_backend",
]
