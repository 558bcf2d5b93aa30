"""The flags of the command line are the fields of the configuration, with its defaults and its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

from stepreel import DropPolicy, Finish, RecorderConfig, WorkerPriority
from stepreel.cli.config_options import config_options

FUNCTIONS = {"episode_trigger", "step_trigger", "keep"}


@click.command()
@config_options(output_dir="videos")
def settings(**given: Any) -> RecorderConfig:
    return RecorderConfig(**given)


def _configured(*arguments: str) -> RecorderConfig:
    config = settings.main(list(arguments), standalone_mode=False)
    assert isinstance(config, RecorderConfig)
    return config


def _option(name: str) -> click.Option:
    (option,) = (param for param in settings.params if param.name == name)
    assert isinstance(option, click.Option)
    return option


def test_without_flags_the_configuration_has_its_own_defaults() -> None:
    assert _configured() == RecorderConfig(output_dir="videos")


def test_every_field_but_the_functions_is_a_flag() -> None:
    assert {param.name for param in settings.params} == {field.name for field in fields(RecorderConfig)} - FUNCTIONS


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--output-dir", "elsewhere"], "output_dir", Path("elsewhere")),
        (["--video-length", "50"], "video_length", 50),
        (["--width", "640"], "width", 640),
        (["--fps", "12.5"], "fps", 12.5),
        (["--segment-s", "2"], "segment_s", 2.0),
        (["--keep-last-n-clips", "3"], "keep_last_n_clips", 3),
        (["--drop-policy", "drop_oldest"], "drop_policy", DropPolicy.DROP_OLDEST),
        (["--worker-priority", "idle"], "worker_priority", WorkerPriority.IDLE),
        (["--finish", "background"], "finish", Finish.BACKGROUND),
        (["--strict"], "strict", True),
        (["--no-durable-snapshots"], "durable_snapshots", False),
    ],
)
def test_a_flag_sets_its_field(arguments: Sequence[str], name: str, value: object) -> None:
    assert getattr(_configured(*arguments), name) == value


def test_a_flag_is_explained_in_the_words_of_its_field() -> None:
    assert _option("crf").help == "Constant rate factor, 0 (best) to 51."


def test_a_choice_is_explained_in_the_words_of_its_kind() -> None:
    option = _option("drop_policy")
    assert option.help == "What happens to frames when the frame queue is full."
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == [policy.value for policy in DropPolicy]


def test_a_field_without_default_is_required_where_the_command_gives_none() -> None:
    @click.command()
    @config_options()
    def bare(**given: Any) -> None: ...

    with pytest.raises(click.MissingParameter, match="output_dir"):
        bare.main([], standalone_mode=False)
