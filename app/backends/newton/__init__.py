"""Newton backends, public: `NewtonBackend`, `NewtonGlBackend`, `NewtonWarpBackend`. The modules are internal to it.

Importing it loads neither Newton nor Warp.
"""

from __future__ import annotations

from .backend import NewtonBackend, NewtonGlBackend, NewtonWarpBackend

__all__ = ["NewtonBackend", "NewtonGlBackend", "NewtonWarpBackend"]
