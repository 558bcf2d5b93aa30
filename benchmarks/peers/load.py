"""`python -m peers.load PLAN PROCESS THREAD`: encode pictures at idle priority until killed, beside that thread.

What a recorder's worker does to a machine, without a recorder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import av
import numpy as np

from stepreel.encoders.cpus import TrainingApart

from .plan import Plan
from .workload import Scene


def main() -> None:
    plan_path, process, thread = sys.argv[1:]
    plan, apart = Plan.load(Path(plan_path)), TrainingApart(int(process), int(thread))
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    scene = Scene(plan.width, plan.height)
    pictures = [np.empty((plan.height, plan.width, 3), np.uint8) for _ in range(30)]
    for step, picture in enumerate(pictures):
        scene.draw(step, picture)
    options = {"preset": plan.preset, "crf": str(plan.crf), "tune": "zerolatency"}
    with av.open(os.devnull, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=plan.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = plan.width, plan.height, "yuv420p"
        stream.thread_count = 1
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            for picture in pictures:
                apart.keep()
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))


if __name__ == "__main__":
    main()
