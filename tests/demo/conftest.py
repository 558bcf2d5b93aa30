"""The task of the demo, built once: its kernels take a while to compile the first time."""

from __future__ import annotations

import pytest

wp = pytest.importorskip("warp")
# As the demo does it, and before Newton is imported: kernels without a backward pass compile in a quarter of the time.
wp.config.enable_backward = False
pytest.importorskip("newton")

from stepreel.demo.task import CartPoleTask  # noqa: E402


@pytest.fixture(scope="session")
def task() -> CartPoleTask:
    """Eight worlds on the CPU; whoever uses it resets it first."""
    return CartPoleTask(8, device="cpu")
