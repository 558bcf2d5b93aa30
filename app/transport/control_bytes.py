"""Offsets of the bytes at the start of the shared memory that workers look at while they work."""

from __future__ import annotations

TRAINING_IS_IDLE = 0
"""Written by training: not 0 while it leaves the device to the workers."""

WORKERS_ARE_RAISED = 1
"""Written by the service: not 0 once workers are to leave the priority "idle" for "low"."""

SOMEBODY_WAITS = 2
"""Written by the service: not 0 while somebody waits for the workers' results."""
