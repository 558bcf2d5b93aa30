"""The life of a clip: every event has its place in every phase."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepreel.service.lifecycle import TRANSITIONS, Event, Life, Phase, Wanted

ORDER = {phase: place for place, phase in enumerate(Phase)}
FINAL = (Phase.CLOSED, Phase.DISCARDED)
LIVES = st.builds(Life, phase=st.sampled_from(Phase), wanted=st.sampled_from(Wanted))
EVENTS = st.lists(st.sampled_from(Event), max_size=30)


def phase_after(*events: Event, wanted: Wanted = Wanted.YES) -> Phase:
    life = Life(wanted=wanted)
    for event in events:
        life.on(event)
    return life.phase


def test_the_table_has_every_event_in_every_phase() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert all(set(row) == set(Event) for row in TRANSITIONS.values())


@given(LIVES, EVENTS)
def test_no_sequence_of_events_raises_and_phases_only_move_forward(life: Life, events: list[Event]) -> None:
    for event in events:
        before = life.phase
        changed = life.on(event)
        assert changed == (life.phase is not before)
        assert ORDER[life.phase] >= ORDER[before]
        assert life.is_in_work or not life.is_captured
        assert not (life.is_over and life.is_in_work)


@given(st.sampled_from(FINAL), st.sampled_from(Wanted), EVENTS)
def test_what_is_over_stays_as_it_is(phase: Phase, wanted: Wanted, events: list[Event]) -> None:
    life = Life(phase=phase, wanted=wanted)
    assert not any(life.on(event) for event in events)
    assert life.is_over


@given(EVENTS)
def test_a_decision_is_taken_once(events: list[Event]) -> None:
    life = Life(wanted=Wanted.UNDECIDED)
    decisions = [event for event in events if event in (Event.KEEP, Event.DISCARD)]
    for event in events:
        life.on(event)
    expected = {None: Wanted.UNDECIDED, Event.KEEP: Wanted.YES, Event.DISCARD: Wanted.NO}
    assert life.wanted is expected[decisions[0] if decisions else None]


@given(LIVES, EVENTS)
def test_a_clip_is_over_after_its_last_events_whatever_came_before(life: Life, events: list[Event]) -> None:
    for event in (*events, Event.ENDS, Event.DRAINED, Event.WRITTEN, Event.KEEP):
        life.on(event)
    assert life.is_over


@pytest.mark.parametrize(
    ("events", "wanted", "phase"),
    [
        ([], Wanted.YES, Phase.BEGUN),
        ([Event.NAMED], Wanted.YES, Phase.RECORDING),
        ([Event.ENDS], Wanted.YES, Phase.ENDED),
        ([Event.ENDS, Event.NAMED], Wanted.YES, Phase.ENDED),
        ([Event.NAMED, Event.DRAINED], Wanted.YES, Phase.RECORDING),
        ([Event.NAMED, Event.ENDS, Event.DRAINED], Wanted.UNDECIDED, Phase.SETTLING),
        ([Event.NAMED, Event.ENDS, Event.DRAINED, Event.WRITTEN], Wanted.YES, Phase.CLOSED),
        ([Event.NAMED, Event.ENDS, Event.DRAINED, Event.WRITTEN], Wanted.UNDECIDED, Phase.WAITING),
        ([Event.NAMED, Event.ENDS, Event.DRAINED, Event.WRITTEN], Wanted.NO, Phase.DISCARDED),
        ([Event.ENDS, Event.DRAINED, Event.WRITTEN, Event.KEEP], Wanted.UNDECIDED, Phase.CLOSED),
        ([Event.ENDS, Event.DRAINED, Event.WRITTEN, Event.DISCARD], Wanted.UNDECIDED, Phase.DISCARDED),
        ([Event.DISCARD, Event.ENDS, Event.DRAINED, Event.WRITTEN], Wanted.UNDECIDED, Phase.DISCARDED),
        ([Event.KEEP, Event.DISCARD, Event.ENDS, Event.DRAINED, Event.WRITTEN], Wanted.UNDECIDED, Phase.CLOSED),
        ([Event.ENDS, Event.ENDS, Event.DRAINED, Event.DRAINED, Event.WRITTEN], Wanted.YES, Phase.CLOSED),
    ],
)
def test_a_phase_is_reached_by_its_events(events: list[Event], wanted: Wanted, phase: Phase) -> None:
    assert phase_after(*events, wanted=wanted) is phase


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_can_be_reached(phase: Phase) -> None:
    reached = {Phase.BEGUN}
    found = {(Phase.BEGUN, wanted) for wanted in Wanted}
    while found:
        before, wanted = found.pop()
        for event in Event:
            life = Life(phase=before, wanted=wanted)
            if life.on(event):
                found.add((life.phase, life.wanted))
                reached.add(life.phase)
    assert phase in reached
