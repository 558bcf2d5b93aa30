"""What share of the processor a worker's threads get."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from stepreel import WorkerPriority
from stepreel.transport.control_bytes import SOMEBODY_WAITS

from ..recordings import poll_until
from .workers import started

LEAVING = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)); \
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))"
MAY_LEAVE_IDLE = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, check=False).returncode == 0
needs_privilege = pytest.mark.skipif(not MAY_LEAVE_IDLE, reason="nobody may leave SCHED_IDLE here")


@needs_privilege
@pytest.mark.anyio
@pytest.mark.parametrize("priority", [WorkerPriority.AUTO, WorkerPriority.LOW])
async def test_all_threads_are_normal_while_somebody_waits_and_lowered_again_afterwards(
    tmp_path: Path, priority: WorkerPriority
) -> None:
    async with started() as worker:
        normal = (worker.policies[0], worker.nice_values[0])

        def is_lowered() -> bool:
            return (worker.policies[-1], worker.nice_values[-1]) != normal

        worker.set_up(tmp_path, priority)
        poll_until(is_lowered)
        for _ in range(2):
            worker.set_control_byte(SOMEBODY_WAITS, 1)
            poll_until(lambda: not is_lowered())
            worker.set_control_byte(SOMEBODY_WAITS, 0)
            poll_until(is_lowered)
        # Only what works was lowered; the thread that looks after it has to get through.
        assert (worker.policies[0], worker.nice_values[0]) == normal


@needs_privilege
@pytest.mark.anyio
async def test_a_worker_that_is_configured_while_somebody_waits_is_lowered_afterwards(tmp_path: Path) -> None:
    async with started() as worker:
        worker.set_control_byte(SOMEBODY_WAITS, 1)
        worker.set_up(tmp_path, WorkerPriority.IDLE)
        async with aclosing(worker.process.replies()) as replies:
            await anext(replies)  # It is ready, and so configured.
        poll_until(lambda: os.SCHED_IDLE not in worker.policies)
        worker.set_control_byte(SOMEBODY_WAITS, 0)
        poll_until(lambda: os.SCHED_IDLE in worker.policies)


THREADS = """
import os, threading
from stepreel import WorkerPriority
from stepreel.encoders.priorities import Priorities

def policy(thread):
    return os.sched_getscheduler(thread.native_id)

def make(start):
    thread = threading.Thread(target=end.wait, daemon=True)
    thread.start()
    return thread

end = threading.Event()
priorities = Priorities()
def work():
    priorities.lower(WorkerPriority.IDLE)
    made = [make(end)]
    with priorities.normal():
        made.append(make(end))
        print([policy(one) for one in made], os.sched_getscheduler(threading.get_native_id()))
    made.append(make(end))
    print([policy(one) for one in made], os.sched_getscheduler(threading.get_native_id()))

worker = threading.Thread(target=work)
worker.start()
worker.join()
print(os.sched_getscheduler(os.getpid()))
"""


@needs_privilege
def test_threads_that_libraries_make_go_along_whenever_they_were_made() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[0, 0] 0", "[5, 5, 5] 5", "0"]


@needs_privilege
def test_an_encoder_that_makes_itself_real_time_does_not_stay_so() -> None:
    program = """
import os
import av, numpy as np
from stepreel import WorkerPriority
from stepreel.encoders.priorities import Priorities

def policies():
    return sorted({os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")})

priorities = Priorities()
priorities.lower(WorkerPriority.IDLE)
with av.open(os.devnull, "w", format="mp4") as container:
    stream = container.add_stream("libsvtav1", rate=30)
    stream.width = stream.height = 64
    for _ in range(3):
        stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24"))
    print(os.SCHED_FIFO in policies())
    priorities.keep()
    print(os.SCHED_FIFO in policies(), os.sched_getscheduler(0))
    with priorities.normal():
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        priorities.keep()
        print(policies())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True", "False 5", "[0]"]


def test_what_is_not_permitted_is_left_in_silence() -> None:
    program = """
import os, threading
from stepreel import WorkerPriority
from stepreel.encoders.priorities import Priorities

def refuse(*arguments):
    raise PermissionError

priorities = Priorities()
def work():
    priorities.lower(WorkerPriority.IDLE)
    allowed, os.sched_setscheduler = os.sched_setscheduler, refuse
    with priorities.normal():
        print(os.sched_getscheduler(threading.get_native_id()))
    print(os.sched_getscheduler(threading.get_native_id()))

worker = threading.Thread(target=work)
worker.start()
worker.join()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["5", "5"]
