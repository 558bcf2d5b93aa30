"""Which clips stay, decided when the episodes in them end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepreel import Episode
from stepreel.keep import BestReturn, failed
from stepreel.scheduling.retention import Decision, Retention


def episode(*, episode_return: float | None = None, terminated: bool = True, truncated: bool = False) -> Episode:
    return Episode(
        number=0, step_count=1, episode_return=episode_return, terminated=terminated, truncated=truncated, info={}
    )


GOOD, BAD = episode(episode_return=1.0), episode(episode_return=0.0)


def retention() -> Retention:
    return Retention(lambda one: one.episode_return == 1.0)


def test_a_clip_of_one_episode_stays_or_goes_with_it() -> None:
    rules = retention()
    rules.begin(0)
    assert rules.judge(GOOD, 10) == Decision(kept=(0,))
    assert rules.end(0, 9) == Decision()
    rules.begin(1)
    assert rules.judge(BAD, 20) == Decision()
    assert rules.end(1, 19) == Decision(discarded=(1,))


def test_a_clip_that_ended_before_its_episode_waits_for_it() -> None:
    rules = retention()
    rules.begin(0)
    assert rules.end(0, 4) == Decision()
    rules.begin(1)
    assert rules.judge(BAD, 10) == Decision(discarded=(0,))
    assert rules.end(1, 15) == Decision()
    assert rules.judge(GOOD, 20) == Decision(kept=(1,))


def test_one_good_episode_keeps_a_clip_of_several() -> None:
    rules = retention()
    rules.begin(0)
    assert rules.judge(BAD, 10) == Decision()
    assert rules.judge(GOOD, 20) == Decision(kept=(0,))
    assert rules.judge(BAD, 30) == Decision()
    assert rules.end(0, 29) == Decision()


def test_what_nobody_decided_about_stays() -> None:
    rules = retention()
    rules.begin(0)
    rules.end(0, 4)
    rules.begin(1)
    assert rules.finish() == Decision(kept=(0, 1))


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=True)), max_size=20))
def test_the_best_return_is_kept_whenever_it_is_beaten(returns: list[float | None]) -> None:
    rule = BestReturn()
    kept = [value for value in returns if rule(episode(episode_return=value))]
    told = [value for value in returns if value is not None and value == value]
    assert kept == sorted(set(kept), key=lambda value: value or 0.0)
    assert max(told, default=float("-inf")) == (kept[-1] if kept else float("-inf"))


def test_an_episode_failed_where_it_ended_before_its_time() -> None:
    assert failed(episode())
    assert not failed(episode(terminated=False, truncated=True))
    assert not failed(episode(truncated=True))


@given(st.lists(st.sampled_from(["begin", "end", "good", "bad"]), max_size=40))
def test_every_clip_is_decided_about_once(events: list[str]) -> None:
    rules, step, clip, is_open = retention(), 0, -1, False
    decided: list[int] = []
    for event in [*events, "finish"]:
        step += 1
        decision = Decision()
        if event == "begin" and not is_open:
            clip, is_open = clip + 1, True
            rules.begin(clip)
        elif event == "end" and is_open:
            is_open = False
            decision = rules.end(clip, step - 1)
        elif event in ("good", "bad"):
            decision = rules.judge(GOOD if event == "good" else BAD, step)
        elif event == "finish":
            decision = rules.finish()
        decided += [*decision.kept, *decision.discarded]
    assert sorted(decided) == list(range(clip + 1))


def test_a_rule_that_raises_has_decided_nothing() -> None:
    def fail(one: Episode) -> bool:
        raise ValueError("no")

    rules = Retention(fail)
    rules.begin(0)
    with pytest.raises(ValueError, match="no"):
        rules.judge(GOOD, 5)
    assert rules.end(0, 9) == Decision()
    assert rules.finish() == Decision(kept=(0,))


def test_a_clip_that_began_after_the_end_of_an_episode_waits_for_the_next() -> None:
    rules = retention()
    assert rules.judge(BAD, 10) == Decision()
    rules.begin(0)  # With the reset, whose picture counts as the step before.
    assert rules.end(0, 9) == Decision()
    assert rules.judge(BAD, 20) == Decision(discarded=(0,))
