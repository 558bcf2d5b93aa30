"""A hook of its own thread: the recorder never waits for it, and nothing that it is given gets lost unsaid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event, get_ident

import pytest
from structlog.testing import capture_logs

from stepreel import Clip, HookError, Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.hooks.background import MOST_WAITING, BackgroundHook, stream_key

from ..storage.leftovers import state_of


class Told(BackgroundHook):
    """Keeps what it is sent, and does something with it."""

    def __init__(self, act: Callable[[Clip], object] = lambda clip: None) -> None:
        super().__init__()
        self.act = act
        self.sent: list[str] = []
        self.threads: set[int] = set()

    def send(self, clip: Clip) -> None:
        self.threads.add(get_ident())
        self.act(clip)
        self.sent.append(clip.name)


def test_a_recorder_s_clips_are_sent_in_order_and_closing_waits_for_them(output_dir: Path) -> None:
    seen: list[int] = []
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=10)
    backend = SyntheticBackend(width=64, height=48)
    with Told(lambda clip: seen.append(clip.paths[0].stat().st_size)) as hook:
        with Recorder(config, backend, on_clip_closed=hook) as recorder:
            for _ in range(25):
                recorder.step()
    assert hook.sent == ["rl-video-step-0", "rl-video-step-10", "rl-video-step-20"]
    assert seen == [clip.segments[0].nbytes for clip in recorder.summary().clips]


def test_the_caller_never_waits_for_a_hook_that_does() -> None:
    go_on = Event()
    hook = Told(lambda clip: go_on.wait(30))
    hook(state_of("one"))
    hook(state_of("two"))
    assert hook.sent == []
    go_on.set()
    hook.close()
    assert hook.sent == ["one", "two"]
    assert len(hook.threads) == 1
    assert get_ident() not in hook.threads


def test_what_a_hook_raises_is_logged_and_the_next_clip_is_sent() -> None:
    def act(clip: Clip) -> None:
        if clip.name == "one":
            raise OSError("the tracker is away")

    with capture_logs() as events, Told(act) as hook:
        hook(state_of("one"))
        hook(state_of("two"))
    assert hook.sent == ["two"]
    assert events == [
        {
            "event": "hook.failed",
            "log_level": "warning",
            "hook": "Told",
            "clip": "one",
            "error": "OSError('the tracker is away')",
        }
    ]


def test_clips_that_a_hook_can_not_take_are_refused_by_name() -> None:
    go_on = Event()
    hook = Told(lambda clip: go_on.wait(30))
    for number in range(MOST_WAITING):
        hook(state_of(f"clip-{number}"))
    with pytest.raises(HookError, match="late is not sent: 256 clips wait for Told already"):
        hook(state_of("late"))
    go_on.set()
    hook.close()
    hook.close()
    assert len(hook.sent) == MOST_WAITING
    with pytest.raises(HookError, match="late is not sent: Told is closed"):
        hook(state_of("late"))


def test_streams_are_told_apart_only_where_there_are_several() -> None:
    assert stream_key("clip", state_of("one")) == "clip"
    assert stream_key("clip", state_of("one", stream="front")) == "clip/front"
