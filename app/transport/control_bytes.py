"""Bytes at the start of the shared memory that tell workers what can't wait for a message.

A message would lie behind the frames that were sent before it. Each byte has one writer; workers only read them.
"""

from __future__ import annotations

TRAINING_IS_IDLE = 0
"""Not 0 while training leaves the device to the workers. Written by the training process."""
WORKERS_ARE_RAISED = 1
"""Not 0 once workers are to leave the priority "idle" for "low". Written by the recording service."""
SOMEBODY_WAITS = 2
"""Not 0 while somebody waits in `flush` or `close`: workers may take the whole machine. Written by the recording
service."""
