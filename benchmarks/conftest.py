"""`hold_against`: measures an operation in turn with a plain one, and fails where their ratio has become much worse.

`hold_to_goal`: measures something that has a limit of its own, and fails beyond it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

sys.path.append(str(Path(__file__).parent))  # For `shared_memory`, which programs beside it import, too.

_BASELINE = Path(__file__).parent / "baseline.json"
_TOLERANCE = 1.5
_ATTEMPTS = 3
"""A machine that others use too may be slow for a while; a regression stays."""


Operation = Callable[[], object]
HoldAgainst = Callable[..., None]
HoldToGoal = Callable[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The quickest round of each."""

    subject_s: float
    plain_s: float

    @property
    def ratio(self) -> float:
        return self.subject_s / self.plain_s


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-baseline", action="store_true", help="take the measured ratios for the committed ones")


@pytest.fixture
def hold_against(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> HoldAgainst:
    """Return a function that measures two operations round by round in turn and judges the ratio of the quickest."""
    name = request.node.name.removeprefix("test_")
    update = bool(request.config.getoption("--update-baseline"))

    def hold(
        subject: Operation,
        plain: Operation,
        *,
        title: str,
        against: str,
        rounds: int,
        count: int = 1,
        between: Operation = lambda: None,
    ) -> None:
        """Measure.

        Args:
            subject: What is to stay quick.
            plain: What it is held against.
            title: The row's name in the documentation.
            against: The name of the plain operation.
            rounds: How often both are measured.
            count: Operations in one round.
            between: Called before each round, not measured.
        """
        measured = _measure(benchmark, subject, plain, rounds, count, between)
        committed = _read_baseline().get("rows", {}).get(name)
        limit = None if update or committed is None else _TOLERANCE * committed["ratio"]
        for _ in range(_ATTEMPTS - 1):
            if limit is None or measured.ratio <= limit:
                break
            measured = _quicker(measured, _measure_again(subject, plain, rounds, count, between))
        benchmark.extra_info["ratio"] = round(measured.ratio, 3)
        if update:
            times = {"subject_s": measured.subject_s, "plain_s": measured.plain_s}
            _commit(name, {"title": title, "plain": against, "ratio": measured.ratio, **times})
        elif committed is None:
            pytest.fail(f"{name} has no committed number: make bench ARGS=--update-baseline")
        elif limit is not None and measured.ratio > limit:
            pytest.fail(
                f"{title}: {measured.ratio:.2f} times {against}; committed are {committed['ratio']:.2f} times, and"
                f" more than {limit:.2f} is a regression (if it is meant: make bench ARGS=--update-baseline)"
            )

    return hold


@pytest.fixture
def hold_to_goal(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> HoldToGoal:
    """Return a function that measures something that has a goal, and judges the least of a few attempts by it."""
    name = request.node.name.removeprefix("test_")
    update = bool(request.config.getoption("--update-baseline"))

    def hold(
        measure: Callable[[], float], plain: float, *, title: str, against: str, goal: float, is_time: bool = True
    ) -> None:
        """Measure.

        Args:
            measure: Returns what is to stay small.
            plain: What it is held against, in the same unit.
            title: The row's name in the documentation.
            against: The name of `plain`.
            goal: The most that it may be, in the same unit.
            is_time: The unit is seconds.
        """
        found = benchmark.pedantic(measure, rounds=1)
        for _ in range(_ATTEMPTS - 1):
            if found > goal:
                found = min(found, measure())
        benchmark.extra_info.update(measured=found, goal=goal)
        committed = _read_baseline().get("rows", {}).get(name)
        if update:
            times = {"subject_s": found, "plain_s": plain} if is_time else {}
            _commit(name, {"title": title, "plain": against, "ratio": found / plain, "goal": goal / plain, **times})
        elif committed is None:
            pytest.fail(f"{name} has no committed number: make bench ARGS=--update-baseline")
        if found > goal:
            pytest.fail(f"{title}: {found:.3g}; the goal is at most {goal:.3g}")

    return hold


def _unrolled(operation: Operation, count: int) -> Callable[[], float]:
    """Return a function that performs an operation `count` times and returns the time of one [s]."""
    namespace: dict[str, Any] = {"clock": time.perf_counter}
    # Without a loop, which would be a good part of an operation of 30 nanoseconds.
    exec("def run(call):\n    begin = clock()\n    " + "call(); " * count + "\n    return clock() - begin", namespace)
    run = namespace["run"]
    return lambda: run(operation) / count


def _measure(
    benchmark: BenchmarkFixture, subject: Operation, plain: Operation, rounds: int, count: int, between: Operation
) -> Measured:
    subject_s: list[float] = []
    plain_s: list[float] = []
    run_subject, run_plain = _unrolled(subject, count), _unrolled(plain, count)

    def before_round() -> None:
        between()
        plain_s.append(run_plain())

    benchmark.pedantic(lambda: subject_s.append(run_subject()), setup=before_round, rounds=rounds, warmup_rounds=1)
    return Measured(subject_s=min(subject_s), plain_s=min(plain_s))


def _measure_again(subject: Operation, plain: Operation, rounds: int, count: int, between: Operation) -> Measured:
    subject_s: list[float] = []
    plain_s: list[float] = []
    run_subject, run_plain = _unrolled(subject, count), _unrolled(plain, count)
    for _ in range(rounds):
        between()
        plain_s.append(run_plain())
        subject_s.append(run_subject())
    return Measured(subject_s=min(subject_s), plain_s=min(plain_s))


def _quicker(one: Measured, other: Measured) -> Measured:
    return one if one.ratio <= other.ratio else other


def _read_baseline() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_BASELINE.read_text()) if _BASELINE.exists() else {}
    return found


def _commit(name: str, row: dict[str, object]) -> None:
    baseline = _read_baseline()
    rows = {**baseline.get("rows", {}), name: {key: _rounded(value) for key, value in row.items()}}
    baseline = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}",
        "tolerance": _TOLERANCE,
        "rows": dict(sorted(rows.items())),
    }
    _BASELINE.write_text(json.dumps(baseline, indent=2) + "\n")


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value
