"""What every test stands on: both event loops, no blocking on them, reproducible examples, a folder for clips."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

# In the gate the same examples run every time; elsewhere each run looks for new ones.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("gate", parent=settings.get_profile("explore"), derandomize=True, database=None)
settings.load_profile("gate" if os.environ.get("CI") else "explore")


def pytest_configure() -> None:
    """Let the tests, and what they start, hear Ctrl-C: a shell has its background jobs ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every async test runs on both event loops."""
    return str(request.param)


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fails a test in which stepreel makes a blocking call on a running asyncio loop, in whatever thread."""
    with blockbuster_ctx("stepreel") as guard:
        for function in guard.functions.values():
            for file in ("app/recorder.py", "stepreel/recorder.py"):  # From a checkout, and installed.
                function.can_block_in(file, "__init__")  # Constructing a recorder checks the output folder.
        yield guard


@pytest.fixture(autouse=True)
def default_log() -> Iterator[None]:
    """Have no test log otherwise because an earlier one ran the command line, which configures structlog."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def own_scheduling() -> Iterator[None]:
    """Take away what an encoder gave to the thread that tests run on: SVT-AV1 makes it real-time, where it may."""
    policy = os.sched_getscheduler(0)
    yield
    if os.sched_getscheduler(0) != policy:
        os.sched_setscheduler(0, policy, os.sched_param(0))


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    """A folder for clips that is not there yet."""
    return tmp_path / "videos"
