"""Which CPUs a worker runs on."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.encoders.cpus import TrainingApart, without

from ..recordings import poll_until

needs_two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")


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
    everywhere = os.sched_getaffinity(0)
    # Busy on one CPU, then on another: a thread that sleeps was last on whichever it likes.
    try:
        with Recorder(RecorderConfig(output_dir=output_dir), SyntheticBackend()) as recorder:
            (worker,) = (one for one in psutil.Process().children() if "stepreel.encoders.worker" in one.cmdline())
            for cpu in sorted(everywhere) * 2:
                os.sched_setaffinity(threading.get_native_id(), {cpu})
                recorder.step()

                def is_apart(cpu: int = cpu) -> bool:
                    return all(cpu not in os.sched_getaffinity(thread.id) for thread in worker.threads())

                poll_until(is_apart)
    finally:
        os.sched_setaffinity(threading.get_native_id(), everywhere)
