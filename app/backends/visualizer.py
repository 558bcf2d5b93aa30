"""`VisualizerBackend`: pictures that an Isaac Lab visualizer draws. The public import path of `isaaclab.visualizer`."""

from __future__ import annotations

from .isaaclab.visualizer import VisualizerBackend

__all__ = ["VisualizerBackend"]
