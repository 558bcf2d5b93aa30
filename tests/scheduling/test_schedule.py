"""The clip schedule: events in, actions out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepreel import ConfigurationError, RecorderConfig
from stepreel.scheduling.schedule import NEVER, Action, BeginClip, Capture, ClipSchedule, EndClip


def make(**settings: Any) -> ClipSchedule:
    return ClipSchedule(RecorderConfig(output_dir="unused", **settings))


def captured(actions: list[Action]) -> list[int]:
    return [action.request.step for action in actions if isinstance(action, Capture)]


def run(schedule: ClipSchedule, steps: int) -> list[Action]:
    return [action for _ in range(steps) for action in schedule.step()]


@pytest.mark.parametrize(
    ("settings", "steps", "expected"),
    [
        ({"video_length": 2, "video_interval": 0}, 8, [0, 1]),
        ({"video_length": 1, "video_interval": 3}, 8, [0, 3, 6]),
        ({"video_length": 2, "video_interval": 0, "step_offset": 5}, 9, [5, 6]),
        ({"video_length": 4, "video_interval": 0, "frame_stride": 2}, 8, [0, 2]),
        ({"video_length": 3, "video_interval": 3}, 7, [0, 1, 2, 3, 4, 5, 6]),
        ({"video_length": 2, "video_interval": 4, "step_offset": 1}, 10, [1, 2, 5, 6, 9]),
        ({"video_length": 2, "step_trigger": lambda step: step in (1, 5)}, 8, [1, 2, 5, 6]),
    ],
)
def test_captures_the_steps_that_were_asked_for(settings: dict[str, Any], steps: int, expected: list[int]) -> None:
    assert captured(run(make(**settings), steps)) == expected


def test_a_clip_is_named_after_its_first_step_and_ends_with_its_last() -> None:
    actions = run(make(video_length=150, video_interval=300, name_prefix="train"), 451)
    begins = [action.clip.name for action in actions if isinstance(action, BeginClip)]
    ends = [(action.clip.name, action.end_step) for action in actions if isinstance(action, EndClip)]
    assert begins == ["train-step-0", "train-step-300"]
    assert ends == [("train-step-0", 149), ("train-step-300", 449)]


def test_an_episode_clip_begins_with_the_picture_of_the_reset_and_ends_with_the_episode() -> None:
    schedule = make(video_length=0, episode_trigger=lambda episode: episode == 1)
    assert schedule.reset() == []
    assert run(schedule, 4) == []
    first = schedule.reset()
    assert isinstance(first[0], BeginClip)
    assert first[0].clip.name == "rl-video-episode-1"
    assert captured(first) == [3]
    assert captured(run(schedule, 2)) == [4, 5]
    (end,) = schedule.reset()
    assert isinstance(end, EndClip)
    assert end.end_step == 5


def test_pts_count_from_the_first_picture_of_the_clip() -> None:
    schedule = make(video_length=0, episode_trigger=lambda _: True)
    actions = schedule.reset() + run(schedule, 3)
    assert [action.request.pts for action in actions if isinstance(action, Capture)] == [0, 1, 2, 3]
    assert actions[0] == BeginClip(clip=actions[0].clip) if isinstance(actions[0], BeginClip) else False
    assert captured(actions)[0] == -1


def test_a_clip_of_fixed_length_goes_on_over_resets() -> None:
    schedule = make(video_length=5, video_interval=0)
    actions = run(schedule, 2) + schedule.reset() + run(schedule, 6)
    assert captured(actions) == [0, 1, 2, 3, 4]


def test_an_episode_clip_of_fixed_length_counts_the_picture_of_the_reset() -> None:
    schedule = make(video_length=3, episode_trigger=lambda _: True)
    actions = schedule.reset() + run(schedule, 6)
    assert captured(actions) == [-1, 0, 1]
    assert isinstance(actions[-1], EndClip)


def test_a_trigger_that_fires_in_mid_clip_ends_it_and_opens_the_next() -> None:
    schedule = make(video_length=10, step_trigger=lambda step: step in (0, 4))
    actions = run(schedule, 6)
    ends = [action.end_step for action in actions if isinstance(action, EndClip)]
    assert ends == [3]
    assert captured(actions) == [0, 1, 2, 3, 4, 5]


def test_an_explicit_clip_goes_on_until_it_is_stopped() -> None:
    schedule = make(video_length=1, video_interval=2, step_offset=100)
    schedule.start_clip("fall")
    actions = run(schedule, 3) + schedule.reset() + run(schedule, 1) + schedule.stop_clip() + run(schedule, 3)
    assert [action.clip.name for action in actions if isinstance(action, BeginClip)] == ["rl-video-fall"]
    assert captured(actions) == [0, 1, 2, 3]


def test_triggers_leave_an_explicit_clip_alone() -> None:
    schedule = make(video_length=1, video_interval=2)
    schedule.start_clip("all", length=5)
    actions = run(schedule, 6)
    assert [action.clip.name for action in actions if isinstance(action, BeginClip)] == ["rl-video-all"]


def test_stop_clip_withdraws_a_clip_that_was_not_begun() -> None:
    schedule = make(video_interval=0, step_offset=50)
    schedule.start_clip("never")
    assert schedule.stop_clip() == []
    assert run(schedule, 5) == []


@pytest.mark.parametrize("name", ["../out", "a/b", "", "-rf", "x\0", "y" * 300, ".hidden"])
def test_a_clip_name_that_could_leave_the_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        make().start_clip(name)


def test_paused_steps_are_not_requested_and_time_goes_on() -> None:
    schedule = make(video_length=6, video_interval=0)
    actions = run(schedule, 2)
    schedule.pause()
    actions += run(schedule, 2)
    schedule.resume()
    actions += run(schedule, 4)
    requests = [action.request for action in actions if isinstance(action, Capture)]
    assert [(request.step, request.pts) for request in requests] == [(0, 0), (1, 1), (4, 4), (5, 5)]


def test_a_clip_asked_for_while_paused_begins_with_the_first_step_after() -> None:
    schedule = make(video_length=1, video_interval=0, step_offset=1000)
    schedule.start_clip(length=2)
    schedule.pause()
    assert run(schedule, 50) == []
    schedule.resume()
    actions = run(schedule, 4)
    assert captured(actions) == [50, 51]
    assert isinstance(actions[0], BeginClip)
    assert actions[0].clip.name == "rl-video-step-50"


def test_no_clip_opens_while_paused() -> None:
    schedule = make(video_length=1, video_interval=3)
    schedule.pause()
    assert run(schedule, 5) == []
    schedule.resume()
    assert captured(run(schedule, 4)) == [6]


def skipping(schedule: ClipSchedule, steps: int) -> list[Action]:
    """Step as a recorder does: without a call where nothing can happen."""
    actions: list[Action] = []
    for _ in range(steps):
        if schedule.next_step < schedule.wake_step:
            schedule.next_step += 1
        else:
            actions += schedule.step()
    return actions


def trigger_at(steps: set[int]) -> Callable[[int], bool]:
    return lambda number: number in steps


@given(
    length=st.integers(0, 12),
    interval=st.integers(0, 30),
    offset=st.integers(0, 20),
    stride=st.integers(1, 4),
    steps=st.none() | st.sets(st.integers(0, 60)),
    episodes=st.none() | st.sets(st.integers(0, 8)),
    events=st.lists(st.sampled_from(["step"] * 12 + ["reset", "start", "stop", "pause", "resume"]), max_size=80),
)
def test_every_capture_lies_in_its_clip_and_skipped_steps_change_nothing(
    length: int,
    interval: int,
    offset: int,
    stride: int,
    steps: set[int] | None,
    episodes: set[int] | None,
    events: list[str],
) -> None:
    settings: dict[str, Any] = {
        "video_length": length if length == 0 else max(length, stride),
        "video_interval": 0 if interval < max(length, stride) else interval,
        "step_offset": offset,
        "frame_stride": stride,
        "step_trigger": None if steps is None else trigger_at(steps),
        "episode_trigger": None if episodes is None else trigger_at(episodes),
    }
    every, sparing = make(**settings), make(**settings)
    log: list[Action] = []
    for event in events:
        match event:
            case "step":
                actions = every.step()
                assert skipping(sparing, 1) == actions
            case "reset":
                actions = every.reset()
                assert sparing.reset() == actions
            case "stop":
                actions = every.stop_clip()
                assert sparing.stop_clip() == actions
            case "start":
                actions = []
                every.start_clip()
                sparing.start_clip()
            case _:
                actions = []
                getattr(every, event)()
                getattr(sparing, event)()
        log += actions
    check_spans(log)


def check_spans(log: list[Action]) -> None:
    open_clip = None
    last_step = -2
    for action in log:
        match action:
            case BeginClip(clip=clip):
                assert open_clip is None
                open_clip = clip
                last_step = -2
            case Capture(request=request):
                assert request.clip == open_clip
                assert request.step == request.clip.start_step + request.pts * request.clip.frame_stride
                assert request.step > last_step
                last_step = request.step
            case EndClip(clip=clip, end_step=end_step):
                assert clip == open_clip
                assert end_step >= max(last_step, clip.start_step)
                open_clip = None


def test_a_schedule_that_is_over_never_wakes() -> None:
    schedule = make(video_length=2, video_interval=0)
    run(schedule, 3)
    assert schedule.wake_step == NEVER
