"""`TensorBoardHook`: a strip of pictures of each clip, and where the clip is."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..clip import Clip
from ..statistics import describe_clip
from ..storage.contact_strip import contact_strip
from .background import BackgroundHook, stream_key


class Writer(Protocol):
    """What the hook needs of a `SummaryWriter`, of `torch.utils.tensorboard` or of `tensorboardX`."""

    def add_image(
        self, tag: str, img_tensor: NDArray[np.uint8], global_step: int | None = None, *, dataformats: str = "CHW"
    ) -> None:
        """Write a picture."""
        ...

    def add_text(self, tag: str, text_string: str, global_step: int | None = None) -> None:
        """Write a text, in Markdown."""
        ...

    def flush(self) -> None:
        """Bring what was written to the disk."""
        ...


class TensorBoardHook(BackgroundHook):
    """Writes a few pictures of each clip, side by side, and the paths of its files: TensorBoard shows no videos.

    Both are called `clip`, of a recorder with several streams `clip/<stream>`, and stand at the clip's first step.
    """

    def __init__(self, writer: Writer, *, tag: str = "clip", count: int = 6, height: int = 180) -> None:
        """Take a writer.

        Args:
            writer: To be closed after the hook.
            tag: What pictures and texts are called.
            count: Pictures of a clip.
            height: Of the pictures [pixels].
        """
        super().__init__()
        self._writer = writer
        self._tag = tag
        self._count = count
        self._height = height

    def send(self, clip: Clip) -> None:
        """Write a clip's pictures, and what is known of it; only the latter where it has no file."""
        step = max(clip.start_step, 0)
        tag = stream_key(self._tag, clip)
        self._writer.add_text(tag, _describe(clip), step)
        if clip.segments and clip.folder:
            strip = contact_strip(clip.folder / f"{clip.name}.json", self._count, self._height)
            self._writer.add_image(tag, strip, step, dataformats="HWC")
        self._writer.flush()


def _describe(clip: Clip) -> str:
    """Return a clip as Markdown: a line of what became of it, and one for each file."""
    return "\n\n".join([describe_clip(clip), *(f"`{path}`" for path in clip.paths)])
