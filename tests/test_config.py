"""Settings are checked once, in one place."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from stepreel import ConfigurationError, DropPolicy, Finish, RecorderConfig, WorkerPriority
from stepreel.config import _CHECKS

WRONG: list[tuple[str, Any]] = [
    ("output_dir", ""),
    ("output_dir", "a\0b"),
    ("name_prefix", "../up"),
    ("name_prefix", "a/b"),
    ("name_prefix", "-x"),
    ("name_prefix", "x" * 300),
    ("name_prefix", "line\nbreak"),
    ("video_length", -1),
    ("video_length", 2.0),
    ("video_interval", True),
    ("step_offset", -1),
    ("frame_stride", 0),
    ("episode_trigger", 5),
    ("step_trigger", "always"),
    ("width", 0),
    ("height", 100_000),
    ("fps", 0),
    ("fps", float("nan")),
    ("codec", "libx264; rm"),
    ("preset", ""),
    ("crf", 52),
    ("pix_fmt", None),
    ("gop_s", float("inf")),
    ("segment_s", 0),
    ("segment_bytes", 0),
    ("keep_last_n_clips", 0),
    ("queue_depth", 0),
    ("queue_bytes", "1 GB"),
    ("drop_policy", "sometimes"),
    ("finish", "tomorrow"),
    ("render", "never"),
    ("durable_snapshots", 1),
    ("ring_s", 0),
    ("ring_bytes", 0),
    ("keep", "the best"),
    ("block_timeout_s", -1.0),
    ("worker_count", 0),
    ("worker_priority", "highest"),
    ("worker_device", "cuda:x"),
    ("render_duty", 1.5),
    ("min_free_bytes", -1),
    ("strict", "yes"),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_value_is_refused_with_field_value_and_what_is_allowed(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RecorderConfig(**{"output_dir": "videos", field: value})
    message = str(caught.value)
    assert message.startswith(f"{field}: got {value!r}; allowed: ")


def test_every_setting_is_checked_and_has_a_wrong_value_here() -> None:
    names = {field.name for field in dataclasses.fields(RecorderConfig)}
    assert set(_CHECKS) == names
    assert {field for field, _ in WRONG} == names


def test_clips_that_would_overlap_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="video_interval: got 100; allowed: 0"):
        RecorderConfig(output_dir="videos", video_length=200, video_interval=100)


def test_names_of_policies_are_taken_for_the_policies() -> None:
    config = RecorderConfig(output_dir="videos", drop_policy="drop_oldest", finish="background", worker_priority="low")  # type: ignore[arg-type]
    assert config.drop_policy is DropPolicy.DROP_OLDEST
    assert config.finish is Finish.BACKGROUND
    assert config.worker_priority is WorkerPriority.LOW
    assert config.output_dir == Path("videos")


def test_a_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RecorderConfig(output_dir="videos").crf = 3  # type: ignore[misc]


def test_encode_settings_are_those_of_the_configuration_with_the_frame_rate_as_a_fraction() -> None:
    config = RecorderConfig(output_dir="videos", codec="libx264", crf=18, segment_s=2.5)
    settings = config.encode_settings(fps=29.97)
    assert (settings.codec, settings.crf, settings.segment_s, settings.fps) == ("libx264", 18, 2.5, Fraction(2997, 100))


def test_stored_encode_settings_make_the_same_ones_again() -> None:
    settings = RecorderConfig(output_dir="videos", preset="slow", segment_bytes=10**6).encode_settings(fps=30.0)
    stored = settings.to_json()
    assert sorted(stored) == sorted(("codec", "preset", "crf", "pix_fmt", "gop_s", "segment_s", "segment_bytes"))
    assert RecorderConfig(output_dir="elsewhere", **stored).encode_settings(fps=30.0) == settings


@pytest.mark.parametrize("wrong", [{"crf": 52}, {"gop_s": 0.0}, {"fps": Fraction(0)}, {"threads": 0}])
def test_encode_settings_that_can_not_be_are_refused_wherever_they_come_from(wrong: dict[str, Any]) -> None:
    settings = RecorderConfig(output_dir="videos").encode_settings(fps=30.0)
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        dataclasses.replace(settings, **wrong)
