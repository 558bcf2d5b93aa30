"""`TensorBoardHook`, against a real writer, read back by TensorBoard itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepreel.backends.synthetic import read_step
from stepreel.hooks.tensorboard import TensorBoardHook

from .recorded import record

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default")]


def read_back(log_dir: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(log_dir), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return events


def test_a_strip_of_pictures_and_the_path_stand_at_the_clip_s_first_step(tmp_path: Path, output_dir: Path) -> None:
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tmp_path / "log")
    with TensorBoardHook(writer, count=3, height=180) as hook:
        summary = record(output_dir, hook)
    writer.close()
    events = read_back(tmp_path / "log")
    assert [event.step for event in events.Images("clip")] == [0, 40]
    for event, first_step in zip(events.Images("clip"), (0, 40), strict=True):
        strip = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))
        assert strip.shape == (180, 3 * 320, 3)
        pictures = [strip[:, left : left + 320] for left in (0, 320, 640)]
        assert [read_step(picture) for picture in pictures] == [first_step, first_step + 10, first_step + 19]
    texts = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("clip/text_summary")]
    for text, clip in zip(texts, summary.clips, strict=True):
        assert text.startswith(f"{clip.name}: complete")
        assert f"`{clip.paths[0]}`" in text
