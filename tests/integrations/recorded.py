"""A short recording to hand to somebody else's library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stepreel import Clip, Recorder, RecorderConfig, Summary
from stepreel.backends.synthetic import SyntheticBackend


def record(
    output_dir: Path, hook: Callable[[Clip], None], *, steps: int = 60, segment_s: float | None = None
) -> Summary:
    """Record clips of 20 steps at steps 0, 40, ...; of each, `hook` hears."""
    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=40, gop_s=0.2, segment_s=segment_s)
    backend = SyntheticBackend(width=320, height=180)
    with Recorder(config, backend, on_clip_closed=hook) as recorder:
        for _ in range(steps):
            recorder.step()
    return recorder.summary()
