"""The flags for argparse are settings, with their defaults, their words and their limits."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pytest

from stepreel import ConfigurationError, DropPolicy, RecorderConfig, add_video_arguments
from stepreel.config import FLAGS


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train", exit_on_error=False)
    add_video_arguments(parser)
    return parser


def configured(parser: argparse.ArgumentParser, *arguments: str) -> RecorderConfig:
    return RecorderConfig.from_arguments(parser.parse_args(arguments), log_dir="logs/run")


def test_without_flags_nothing_is_asked_for_and_the_settings_have_their_defaults(
    parser: argparse.ArgumentParser,
) -> None:
    assert parser.parse_args([]).video is False
    assert parser.parse_args(["--video"]).video is True
    assert configured(parser) == RecorderConfig(output_dir="logs/run/videos/train")


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--video_length", "50"], "video_length", 50),
        (["--video_interval=0"], "video_interval", 0),
        (["--step_offset", "7"], "step_offset", 7),
        (["--frame_stride", "2"], "frame_stride", 2),
        (["--queue_depth", "64"], "queue_depth", 64),
        (["--queue_bytes", "1000000"], "queue_bytes", 1_000_000),
        (["--drop_policy", "drop_oldest"], "drop_policy", DropPolicy.DROP_OLDEST),
        (["--block_timeout_s", "0.25"], "block_timeout_s", 0.25),
    ],
)
def test_a_flag_sets_its_field_in_either_spelling(
    parser: argparse.ArgumentParser, arguments: Sequence[str], name: str, value: object
) -> None:
    flag, *rest = arguments
    assert getattr(configured(parser, *arguments), name) == value
    assert getattr(configured(parser, flag.replace("_", "-"), *rest), name) == value


def test_every_flag_is_a_field_and_says_so_in_the_field_s_words(parser: argparse.ArgumentParser) -> None:
    help_text = " ".join(parser.format_help().split())
    assert set(FLAGS) <= {field.name for field in fields(RecorderConfig)}
    for name in FLAGS:
        assert f"--{name}" in help_text
    assert "Capture every n-th step of a clip. (default: 1)" in help_text
    assert "What happens to frames when the frame queue is full. (default: thin)" in help_text
    assert "{block,drop_newest,drop_oldest,thin}" in help_text


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("--video_length", "-1", "a whole number, at least 0"),
        ("--video-length", "ten", "a whole number, at least 0"),
        ("--frame_stride", "0", "a whole number, at least 1"),
        ("--frame_stride", "1.5", "a whole number, at least 1"),
        ("--block_timeout_s", "nan", "a number above 0 and at most 3600"),
        ("--drop_policy", "sometimes", "one of block, drop_newest, drop_oldest, thin"),
    ],
)
def test_a_wrong_value_is_an_error_of_the_parser_with_the_flag_and_what_is_allowed(
    parser: argparse.ArgumentParser, flag: str, value: str, allowed: str
) -> None:
    with pytest.raises(argparse.ArgumentError) as caught:
        parser.parse_args([f"{flag}={value}"])
    assert flag in str(caught.value)
    assert str(caught.value).endswith(f"got {value!r}; allowed: {allowed}")


def test_values_that_do_not_go_together_are_refused_with_the_field(parser: argparse.ArgumentParser) -> None:
    with pytest.raises(ConfigurationError, match="video_interval: got 100; allowed: 0"):
        configured(parser, "--video_interval", "100")


def test_a_script_s_own_flags_are_taken_and_what_means_something_else_is_not() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--video_length", type=int, default=100)
    parser.add_argument("--width", type=int, default=3)
    args = parser.parse_args(["--video_length", "20"])
    config = RecorderConfig.from_arguments(args, log_dir=Path("logs"))
    assert config == RecorderConfig(output_dir="logs/videos/train", video_length=20)
