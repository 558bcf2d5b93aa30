"""Which CPUs workers run on."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import psutil
import pytest

from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.cpus import choose_worker_cpus

needs_two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")


@needs_two_cpus
def test_a_quarter_of_the_cpus_or_one_is_left_to_training_and_its_own_is_one_of_them() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    for cpu in allowed:
        chosen: list[tuple[int, ...]] = []

        def choose(cpu: int = cpu, chosen: list[tuple[int, ...]] = chosen) -> None:
            os.sched_setaffinity(0, {cpu})
            os.sched_yield()
            os.sched_setaffinity(0, allowed)
            chosen.append(choose_worker_cpus(threading.get_native_id()))

        thread = threading.Thread(target=choose)
        thread.start()
        thread.join()
        assert len(chosen[0]) == len(allowed) - max(1, len(allowed) // 4)
        assert set(chosen[0]) < set(allowed)


def test_a_process_with_one_cpu_shares_it() -> None:
    chosen: list[tuple[int, ...]] = []

    def choose() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        chosen.append(choose_worker_cpus(threading.get_native_id()))

    thread = threading.Thread(target=choose)
    thread.start()
    thread.join()
    assert chosen == [()]


def test_a_thread_that_is_not_there_leaves_workers_all_cpus() -> None:
    assert choose_worker_cpus(2**22 + 1) == ()


@needs_two_cpus
def test_every_thread_of_a_worker_keeps_to_its_cpus(output_dir: Path) -> None:
    with Recorder(RecorderConfig(output_dir=output_dir), SyntheticBackend()) as recorder:
        for _ in range(20):
            recorder.step()
        (worker,) = (one for one in psutil.Process().children() if "stepreel.encoders.worker" in one.cmdline())
        for thread in worker.threads():
            assert os.sched_getaffinity(thread.id) < os.sched_getaffinity(0)
