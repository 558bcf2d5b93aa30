"""The arithmetic of the comparison with other recorders: what is held against what."""

from __future__ import annotations

from importlib import import_module
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Times = NDArray[np.float64]

goals = import_module("peers.goals")
measures = import_module("peers.measures")
one_run = import_module("peers.one_run")
pictures = import_module("peers.pictures")
plans = import_module("peers.plan")
recorders = import_module("peers.recorders")
Phase = plans.Phase

PLAN = plans.Plan(
    width=32,
    height=16,
    clip_count=3,
    clip_steps=100,
    gap_steps=60,
    warmup_steps=20,
    step_units=0,
    draw_units=0,
    snapshot_draw_units=0,
)


class CountedEnv:
    """Counts what is drawn in each phase of `PLAN`."""

    def __init__(self) -> None:
        self.phase: Any = None
        self.drawn: dict[Any, int] = {}

    def render(self) -> None:
        self.drawn[self.phase] = self.drawn.get(self.phase, 0) + 1


def ratios(times: Times) -> dict[str, float]:
    return {name: held.ratio for name, held in measures.step_times(times, PLAN).items()}


def steady() -> Times:
    """Return steps of 5 ms, a tenth of them of 6."""
    return np.where(np.arange(PLAN.step_count) % 10 == 0, 6e-3, 5e-3)


def steps_of(phase: object) -> NDArray[np.bool_]:
    return np.array([PLAN.phase(step) is phase for step in range(PLAN.step_count)])


def run_of(repetition: int, times: Times) -> dict[str, Any]:
    held = measures.step_times(times, PLAN)
    return {
        "peer": "undrawn",
        "title": "no recorder",
        "repetition": repetition,
        "finish_s": [0.5],
        "setup_s": 1.0,
        "memory_nbytes": 0,
        "step_times": {
            name: {"time_s": one.time_s, "baseline_s": one.baseline_s, "ratio": one.ratio} for name, one in held.items()
        },
    }


def test_every_clip_lies_between_two_baselines_and_every_gap_between_two_rests() -> None:
    phases = [phase for phase, _ in groupby(PLAN.phase(step) for step in range(PLAN.step_count))]
    period = [Phase.REST, Phase.BASELINE, Phase.CLIP, Phase.GAP]
    assert phases == [Phase.WARMUP, *period * PLAN.clip_count, Phase.REST, Phase.BASELINE]
    assert [step for step in PLAN.clip_starts if PLAN.phase(step) is not Phase.CLIP] == []
    assert sum(steps_of(Phase.CLIP)) == PLAN.clip_count * PLAN.clip_steps
    assert sum(steps_of(Phase.BASELINE)) == (PLAN.clip_count + 1) * PLAN.clip_steps


def test_baselines_are_drawn_and_each_clip_is_finished_before_the_next_rest() -> None:
    env = CountedEnv()
    finished: list[Any] = []

    def step(number: int) -> None:
        env.phase = PLAN.phase(number)

    session = recorders.Session(step=step, finish=lambda: finished.append(env.phase))
    steps_s, finish_s = one_run.train(PLAN, session, env)
    assert env.drawn == {Phase.BASELINE: (PLAN.clip_count + 1) * PLAN.clip_steps}
    assert finished == [Phase.GAP] * PLAN.clip_count
    assert (len(steps_s), len(finish_s)) == (PLAN.step_count, PLAN.clip_count)


def test_a_loop_that_is_the_same_throughout_has_ratios_of_one() -> None:
    assert ratios(steady()) == pytest.approx(dict.fromkeys(measures.NAMES, 1.0))


def test_slower_steps_of_a_clip_show_in_the_ratios_of_clips_only() -> None:
    found = ratios(np.where(steps_of(Phase.CLIP), 1.2, 1.0) * steady())
    clip = ("p50", "p99", "p999", "longest")
    assert [found[name] for name in clip] == pytest.approx([1.2] * 4)
    assert [found[name] for name in measures.NAMES if name.startswith("after")] == pytest.approx([1.0] * 3)


def test_slower_steps_after_a_clip_show_in_the_ratios_of_gaps_only() -> None:
    found = ratios(np.where(steps_of(Phase.GAP), 1.3, 1.0) * steady())
    assert [found[name] for name in ("p50", "p99", "p999", "longest")] == pytest.approx([1.0] * 4)
    assert [found[name] for name in measures.NAMES if name.startswith("after")] == pytest.approx([1.3] * 3)


def test_a_stall_at_the_end_of_a_clip_is_closing_it() -> None:
    times = steady()
    times[PLAN.clip_starts[1] + PLAN.clip_steps - 1] = 6.0
    found = ratios(times)
    assert found.pop("closing") == pytest.approx(1000.0)
    assert found == pytest.approx(dict.fromkeys(found, 1.0))


def test_a_stall_in_one_clip_of_three_is_the_longest_of_the_run() -> None:
    times = steady()
    times[PLAN.clip_starts[1] + 5] = 0.06
    found = ratios(times)
    assert found["longest"] == pytest.approx(10.0)
    assert found["p50"] == found["p99"] == pytest.approx(1.0)


def test_a_machine_that_becomes_slower_during_the_run_leaves_the_ratios_alone() -> None:
    slowing = np.linspace(1.0, 1.7, PLAN.step_count)
    found = ratios(slowing * steady())
    assert found["p50"] == pytest.approx(1.0, abs=0.03)
    assert found["p99"] == pytest.approx(1.0, abs=0.03)


def test_a_row_has_the_median_and_the_spread_of_its_repetitions() -> None:
    factors = (1.0, 1.5, 1.1)
    clip = steps_of(Phase.CLIP)
    runs = [run_of(number, np.where(clip, factor, 1.0) * steady()) for number, factor in enumerate(factors)]
    row = measures.summarize(runs)["undrawn"]
    assert row["ratios"]["p50"] == pytest.approx(1.1)
    assert row["ratio_spread"]["p50"] == pytest.approx((1.0, 1.5))
    assert row["repetitions"] == 3


@pytest.mark.parametrize(("steps", "longest"), [([], 0), ([4], 1), ([9, 1, 2, 3, 7, 8], 3), ([0, 2, 4], 1)])
def test_lost_steps_in_a_row_are_counted(steps: list[int], longest: int) -> None:
    assert pictures.longest_row(steps) == longest


@pytest.mark.parametrize(
    ("lost", "in_a_row", "reached"),
    [(0, 0, True), (375, 1, True), (375, 3, True), (375, 200, False), (750, 750, False)],
)
def test_lost_pixels_must_be_spread_evenly(lost: int, in_a_row: int, reached: bool) -> None:
    row = {"lost": lost, "lost_most": lost, "lost_in_a_row": in_a_row, "frames": 750}
    assert goals._lost("stepreel", row).reached is reached
    assert goals._lost("stepreel_snapshots", row).reached is (lost == 0)


def test_likeness_is_compared_at_the_size_of_the_other_clip() -> None:
    curve = [
        {"nbytes": 100, "frames": 10, "psnr_mean_db": 30.0},
        {"nbytes": 400, "frames": 10, "psnr_mean_db": 40.0},
    ]
    other = {"nbytes": 2000, "frames": 100, "lost": 0, "repeated": 0, "psnr_mean_db": 34.0}
    assert goals._margin_db(other, curve, "psnr_mean_db") == pytest.approx(1.0)


def test_every_goal_has_a_key_of_its_own_before_anything_is_measured() -> None:
    table = goals.all_goals({}, {}, {}, None)
    assert len({goal.key for goal in table}) == len(table)
    assert {goal.reached for goal in table} == {None}
