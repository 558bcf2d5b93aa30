"""`WandbHook`, against a real run in offline mode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from stepreel.hooks.wandb import WandbHook

from ..recordings import poll_until
from .recorded import record

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default")]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    import wandb

    settings = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True)
    run = wandb.init(mode="offline", dir=tmp_path, project="stepreel", settings=settings)
    yield run
    run.finish()


def media(run: Any) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(run.dir, "media", "videos").rglob("*.mp4"))]


def check_log(run: Any, *texts: bytes) -> None:
    """Look for texts in what the finished run has for its upload: records of their own form, texts as they are."""
    (path,) = Path(run.dir).parent.glob("*.wandb")
    # The program that writes it may end a little later than the run.
    poll_until(lambda: all(text in path.read_bytes() for text in texts))


def test_clips_are_logged_as_videos_and_move_no_step(run: Any, output_dir: Path) -> None:
    run.log({"loss": 1.0})
    with WandbHook(run) as hook:
        summary = record(output_dir, hook)
    assert run.step == 1
    run.log({"loss": 0.5})
    assert run.step == 2
    run.finish()
    assert len(summary.clips) == 2
    assert sorted(media(run)) == sorted(path.read_bytes() for clip in summary.clips for path in clip.paths)
    check_log(run, b"clip/start_step", b"clip/encoded", b"clip/dropped", b"rl-video-step-0", b"rl-video-step-40")


def test_a_clip_that_ends_after_the_last_log_is_in_the_run(run: Any, output_dir: Path) -> None:
    run.log({"loss": 1.0})
    with WandbHook(run, key="evaluation") as hook:
        record(output_dir, hook, steps=20)
    run.finish()
    check_log(run, b"evaluation/start_step", b"rl-video-step-0")
    assert len(media(run)) == 1


def test_what_training_logs_for_the_same_step_after_a_clip_is_kept(run: Any, output_dir: Path) -> None:
    run.log({"before_the_clip": 1.0}, step=10)
    with WandbHook(run) as hook:
        record(output_dir, hook, steps=20)
    run.log({"after_the_clip": 2.0}, step=10)
    run.log({"later": 3.0}, step=20)
    run.finish()
    check_log(run, b"before_the_clip", b"clip/start_step", b"after_the_clip", b"later")


def test_clips_whose_files_were_deleted_cost_a_line_in_the_log(run: Any, output_dir: Path) -> None:
    (clip,) = record(output_dir, lambda clip: None, steps=20).clips
    clip.paths[0].unlink()
    with capture_logs() as events, WandbHook(run) as hook:
        hook(clip)
    (event,) = events
    assert (event["event"], event["hook"], event["clip"]) == ("hook.failed", "WandbHook", "rl-video-step-0")
    assert event["error"].startswith("FileNotFoundError")
