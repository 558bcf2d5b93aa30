"""`WandbHook`: clips in a run of Weights & Biases."""

from __future__ import annotations

from typing import Any, Protocol

from ..clip import Clip
from .background import BackgroundHook, stream_key


class Run(Protocol):
    """What the hook needs of a `wandb.Run`."""

    @property
    def step(self) -> int:
        """The row that the next call of `log` goes to."""
        ...

    def log(self, data: dict[str, Any], *, commit: bool | None = None) -> None:
        """Add to that row; end it where `commit` says so."""
        ...


class WandbHook(BackgroundHook):
    """Logs each clip as a `wandb.Video`, and what is known of it beside.

    The video is called `clip`, of a recorder with several streams `clip/<stream>`; beside it stand `<key>/start_step`,
    `<key>/encoded` and `<key>/dropped`. They go into the row of the training's own next `log`, so the hook ends no row
    and moves no step. Clips that meet in one row are logged as a list.
    """

    def __init__(self, run: Run, *, key: str = "clip") -> None:
        """Take a run.

        Args:
            run: From `wandb.init`, not in mode "shared"; to be finished after the hook is closed.
            key: What the video is called.
        """
        super().__init__()
        self._run = run
        self._key = key
        self._step = -1
        self._in_row: dict[str, list[Any]] = {}

    def send(self, clip: Clip) -> None:
        """Log a clip; one without a file by its counts alone."""
        from wandb import Video

        step = self._run.step
        if step != self._step:  # The training has ended the row in which the clips before are.
            self._step = step
            self._in_row.clear()
        key = stream_key(self._key, clip)
        videos = self._in_row.setdefault(key, [])
        videos += [Video(path, caption=clip.name, format="mp4") for path in clip.paths]
        self._run.log(_facts(key, clip) | _as_logged(key, videos), commit=False)


def _as_logged(key: str, videos: list[Any]) -> dict[str, Any]:
    if not videos:
        return {}
    return {key: videos[0] if len(videos) == 1 else list(videos)}


def _facts(key: str, clip: Clip) -> dict[str, Any]:
    return {
        f"{key}/start_step": clip.start_step,
        f"{key}/encoded": clip.frames.encoded,
        f"{key}/dropped": clip.frames.dropped_total,
    }
