"""MuJoCo backend, public: `MujocoBackend`, and `is_mujoco` for whoever chooses one. The modules are internal to it.

Importing it does not load MuJoCo.
"""

from __future__ import annotations

from .backend import MujocoBackend, is_mujoco

__all__ = ["MujocoBackend", "is_mujoco"]
