"""Which clips stay, decided when the episodes in them end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepreel import Episode
from stepreel.keep import BestReturn, failed
from stepreel.scheduling.keeping import Keeping, Verdict


def episode(*, episode_return: float | None = None, terminated: bool = True, truncated: bool = False) -> Episode:
    return Episode(
        number=0, step_count=1, episode_return=episode_return, terminated=terminated, truncated=truncated, info={}
    )


GOOD, BAD = episode(episode_return=1.0), episode(episode_return=0.0)


def keeping() -> Keeping:
    return Keeping(lambda one: one.episode_return == 1.0)


def test_a_clip_of_one_episode_stays_or_goes_with_it() -> None:
    rules = keeping()
    rules.begin(0)
    assert rules.judge(GOOD, 10) == Verdict(kept=(0,))
    assert rules.end(0, 9) == Verdict()
    rules.begin(1)
    assert rules.judge(BAD, 20) == Verdict()
    assert rules.end(1, 19) == Verdict(discarded=(1,))


def test_a_clip_that_ended_before_its_episode_waits_for_it() -> None:
    rules = keeping()
    rules.begin(0)
    assert rules.end(0, 4) == Verdict()
    rules.begin(1)
    assert rules.judge(BAD, 10) == Verdict(discarded=(0,))
    assert rules.end(1, 15) == Verdict()
    assert rules.judge(GOOD, 20) == Verdict(kept=(1,))


def test_one_good_episode_keeps_a_clip_of_several() -> None:
    rules = keeping()
    rules.begin(0)
    assert rules.judge(BAD, 10) == Verdict()
    assert rules.judge(GOOD, 20) == Verdict(kept=(0,))
    assert rules.judge(BAD, 30) == Verdict()
    assert rules.end(0, 29) == Verdict()


def test_what_nobody_decided_about_stays() -> None:
    rules = keeping()
    rules.begin(0)
    rules.end(0, 4)
    rules.begin(1)
    assert rules.finish() == Verdict(kept=(0, 1))


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
    rules, step, clip, is_open = keeping(), 0, -1, False
    decided: list[int] = []
    for event in [*events, "finish"]:
        step += 1
        verdict = Verdict()
        if event == "begin" and not is_open:
            clip, is_open = clip + 1, True
            rules.begin(clip)
        elif event == "end" and is_open:
            is_open = False
            verdict = rules.end(clip, step - 1)
        elif event in ("good", "bad"):
            verdict = rules.judge(GOOD if event == "good" else BAD, step)
        elif event == "finish":
            verdict = rules.finish()
        decided += [*verdict.kept, *verdict.discarded]
    assert sorted(decided) == list(range(clip + 1))
