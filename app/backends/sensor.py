"""`SensorBackend`: pictures of a camera that the task renders anyway. The public import path of `isaaclab.sensor`."""

from __future__ import annotations

from .isaaclab.sensor import DEFAULT_DEPTH_RANGE, SensorBackend, SensorRenderer

__all__ = ["DEFAULT_DEPTH_RANGE", "SensorBackend", "SensorRenderer"]
