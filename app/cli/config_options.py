"""The options of `stepreel.arguments`, for click."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..arguments import Option, options

_Command = TypeVar("_Command", bound=Callable[..., Any])
_SIMPLE_TYPES: dict[Any, click.ParamType[Any]] = {int: click.INT, float: click.FLOAT, str: click.STRING}


def config_options(**defaults: object) -> Callable[[_Command], _Command]:
    """Give a command an option for each setting, but for those that are functions.

    The command gets them as keyword arguments, under the names of the fields: all that `RecorderConfig` needs.

    Args:
        **defaults: Defaults of the command's own, for fields that have none or another one.
    """

    def decorate(command: _Command) -> _Command:
        for option in reversed(options()):
            command = _option(option, defaults.get(option.name, option.default))(command)
        return command

    return decorate


def _option(option: Option, default: object) -> Callable[[_Command], _Command]:
    flag = "--" + option.name.replace("_", "-")
    if default is dataclasses.MISSING:
        return click.option(flag, type=_param_type(option), required=True, help=option.help)
    if option.kind is bool:
        name = f"{flag}/--no-{flag.removeprefix('--')}" if default else flag
        return click.option(name, is_flag=True, default=default, help=option.help)
    return click.option(
        flag, type=_param_type(option), default=default, show_default=default is not None, help=option.help
    )


def _param_type(option: Option) -> click.ParamType[Any]:
    return click.Choice(option.choices) if option.choices else _SIMPLE_TYPES[option.kind]
