"""What `torchrun` starts in `test_torchrun`: steps in step with the other ranks, and records into the folder of all.

Without a `__main__` guard, as training scripts are.
"""

from __future__ import annotations

import os
import signal
import sys

import torch
import torch.distributed

from stepreel import Recorder, RecorderConfig, WorkerPriority
from stepreel.backends.synthetic import SyntheticBackend

folder, steps, killed_rank = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.distributed.init_process_group("gloo")
config = RecorderConfig(
    output_dir=folder, video_length=30, video_interval=30, segment_s=0.5, worker_priority=WorkerPriority.NORMAL
)
with Recorder(config, SyntheticBackend(width=64, height=48, snapshot=True)) as recorder:
    for step in range(steps):
        recorder.step()
        gradient = torch.ones(8)
        torch.distributed.all_reduce(gradient)
        assert gradient[0] == torch.distributed.get_world_size()
        if step == steps // 2:
            recorder.flush()  # Each rank's first clip is closed before the next gradients are exchanged.
        elif step > steps // 2 and torch.distributed.get_rank() == killed_rank:
            os.kill(os.getpid(), signal.SIGKILL)
torch.distributed.destroy_process_group()
