"""Which CPUs a worker runs on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepreel import Recorder, RecorderConfig, WorkerPriority
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.encoders.cpus import TrainingApart, without
from stepreel.transport.control_bytes import SOMEBODY_WAITS

from ..recordings import poll_until, worker_of
from .workers import started

EVERYWHERE = frozenset(os.sched_getaffinity(0))
needs_two_cpus = pytest.mark.skipif(len(EVERYWHERE) < 2, reason="one CPU")


@given(st.sets(st.integers(0, 255), min_size=1), st.data())
def test_a_quarter_or_one_is_left_to_training_and_its_own_is_among_them(allowed: set[int], data: st.DataObject) -> None:
    taken = data.draw(st.sampled_from(sorted(allowed)))
    others = without(allowed, taken)
    assert others < allowed
    assert taken not in others
    assert len(others) == len(allowed) - max(1, len(allowed) // 4)


def test_a_thread_that_is_not_there_is_nobody_to_keep_away_from() -> None:
    before = os.sched_getaffinity(0)
    TrainingApart(os.getpid(), 2**22 + 1).keep()
    assert os.sched_getaffinity(0) == before


@needs_two_cpus
def test_every_thread_of_a_worker_moves_away_from_where_training_goes(output_dir: Path) -> None:
    # Busy on one CPU, then on another: a thread that sleeps was last on whichever it likes.
    try:
        with Recorder(RecorderConfig(output_dir=output_dir), SyntheticBackend()) as recorder:
            worker = worker_of()
            for cpu in sorted(EVERYWHERE) * 2:
                os.sched_setaffinity(threading.get_native_id(), {cpu})
                recorder.step()

                def is_apart(cpu: int = cpu) -> bool:
                    return all(cpu not in os.sched_getaffinity(thread.id) for thread in worker.threads())

                poll_until(is_apart)
    finally:
        os.sched_setaffinity(threading.get_native_id(), EVERYWHERE)


@contextmanager
def training_on(cpu: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that is busy on one CPU and is not the worker's parent."""
    program = f"import os; os.sched_setaffinity(0, {{{cpu}}}); print('busy', flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as training:
        assert training.stdout is not None
        training.stdout.readline()
        try:
            yield training
        finally:
            training.kill()


@needs_two_cpus
@pytest.mark.anyio
async def test_a_worker_keeps_off_a_training_process_that_is_not_its_parent_until_that_ends() -> None:
    taken = min(EVERYWHERE)
    with training_on(taken) as training:
        async with started(training_process=training.pid, training_thread=training.pid) as worker:
            poll_until(lambda: all(taken not in cpus for cpus in worker.affinities))
            training.kill()  # It is not reaped yet: its thread is still listed.
            poll_until(lambda: all(cpus == EVERYWHERE for cpus in worker.affinities))
            training.wait()
            assert psutil.pid_exists(worker.process.pid)


@needs_two_cpus
@pytest.mark.anyio
async def test_a_worker_takes_all_cpus_while_somebody_waits(tmp_path: Path) -> None:
    taken = min(EVERYWHERE)
    with training_on(taken) as training:
        async with started(training_process=training.pid, training_thread=training.pid) as worker:
            worker.set_up(tmp_path, WorkerPriority.IDLE)
            poll_until(lambda: all(taken not in cpus for cpus in worker.affinities))
            for _ in range(2):
                worker.set_control_byte(SOMEBODY_WAITS, 1)
                poll_until(lambda: all(cpus == EVERYWHERE for cpus in worker.affinities))
                worker.set_control_byte(SOMEBODY_WAITS, 0)
                poll_until(lambda: all(taken not in cpus for cpus in worker.affinities))


@needs_two_cpus
@pytest.mark.anyio
async def test_a_worker_that_was_started_from_one_cpu_takes_those_that_it_was_given() -> None:
    thread = threading.get_native_id()
    os.sched_setaffinity(thread, {min(EVERYWHERE)})
    try:
        # A thread that is not there: nobody to keep away from.
        async with started(training_thread=2**22 + 1, cpus=EVERYWHERE) as worker:
            poll_until(lambda: all(cpus == EVERYWHERE for cpus in worker.affinities))
    finally:
        os.sched_setaffinity(thread, EVERYWHERE)


OPENING = """
import os, pickle, sys, threading
from stepreel import RecorderConfig
from stepreel.encoders import protocol
from stepreel.encoders.cpus import TrainingApart
from stepreel.encoders.renderer_host import RendererHost

class Counting:
    '''Counts the CPUs when it is opened, of the process and of a thread that it starts.'''
    def open(self):
        seen = [os.sched_getaffinity(os.getpid())]
        thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
        self.name = repr([sorted(one) for one in seen])

apart = TrainingApart(int(sys.argv[1]), int(sys.argv[1]))
apart.keep()
print(sorted(os.sched_getaffinity(0)))
replies = []
host = RendererHost(replies.append, apart.lifted)
settings = RecorderConfig(output_dir=".").encode_settings(fps=20.0)
host.open(host.add(protocol.OpenStream(
    stream="default", version=0, width=64, height=48, settings=settings, render_duty=1.0,
    payload=pickle.dumps(Counting()),
)))
print(replies[0].renderer)
print(sorted(os.sched_getaffinity(0)))
"""


@needs_two_cpus
def test_a_renderer_that_is_opened_meanwhile_counts_all_cpus() -> None:
    taken = min(EVERYWHERE)
    with training_on(taken) as training:
        done = subprocess.run(
            [sys.executable, "-c", OPENING, str(training.pid)], capture_output=True, text=True, check=True
        )
    before, opened, after = done.stdout.splitlines()
    everywhere = sorted(EVERYWHERE)
    assert opened == repr([everywhere, everywhere])
    assert before == after
    assert taken not in eval(before)


def test_what_is_lifted_twice_stays_lifted_until_both_have_ended() -> None:
    program = """
import os, sys
from stepreel.encoders.cpus import TrainingApart
apart = TrainingApart(int(sys.argv[1]), int(sys.argv[1]))
def look():
    apart.keep()
    print(len(os.sched_getaffinity(0)))
look()
with apart.lifted():
    with apart.lifted():
        look()
    look()
look()
"""
    with training_on(min(EVERYWHERE)) as training:
        done = subprocess.run(
            [sys.executable, "-c", program, str(training.pid)], capture_output=True, text=True, check=True
        )
    confined = len(without(EVERYWHERE, min(EVERYWHERE))) or 1
    assert [int(line) for line in done.stdout.split()] == [confined, len(EVERYWHERE), len(EVERYWHERE), confined]
