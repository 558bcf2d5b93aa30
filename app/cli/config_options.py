"""Command-line options made from the fields of `RecorderConfig`: names, types, defaults and help have one place."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable
from enum import StrEnum
from itertools import pairwise
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import click

from ..config import RecorderConfig

_Command = TypeVar("_Command", bound=Callable[..., Any])
_SIMPLE_TYPES: dict[Any, click.ParamType[Any]] = {int: click.INT, float: click.FLOAT, str: click.STRING}


def config_options(**defaults: object) -> Callable[[_Command], _Command]:
    """Give a command an option for each setting, but for those that are functions.

    The command gets them as keyword arguments, under the names of the fields: all that `RecorderConfig` needs.

    Args:
        **defaults: Defaults of the command's own, for fields that have none or another one.
    """
    options = [_option(field, defaults) for field in dataclasses.fields(RecorderConfig)]

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            if option is not None:
                command = option(command)
        return command

    return decorate


def _option(field: dataclasses.Field[Any], defaults: dict[str, object]) -> Callable[[_Command], _Command] | None:
    """Return the option for a field, or None for a function, which no command line can give."""
    kind = _kind(_TYPES[field.name])
    if get_origin(kind) is Callable:
        return None
    flag = "--" + field.name.replace("_", "-")
    documented = _HELP.get(field.name) or (inspect.getdoc(kind) if issubclass(kind, StrEnum) else None)
    default = defaults.get(field.name, field.default)
    if default is dataclasses.MISSING:
        return click.option(flag, type=_param_type(kind), required=True, help=documented)
    if isinstance(default, StrEnum):
        default = default.value
    if kind is bool:
        return click.option(flag, is_flag=True, default=default, help=documented)
    return click.option(
        flag, type=_param_type(kind), default=default, show_default=default is not None, help=documented
    )


def _kind(annotation: Any) -> Any:
    """Return what a setting is made of: of a union, its first alternative."""
    return get_args(annotation)[0] if get_origin(annotation) in (Union, UnionType) else annotation


def _param_type(kind: Any) -> click.ParamType[Any]:
    if issubclass(kind, StrEnum):
        return click.Choice([member.value for member in kind])
    return _SIMPLE_TYPES[kind]


def _docstrings(kind: type) -> dict[str, str]:
    """Return the strings that stand under a class's attributes, where its source is at hand."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except OSError:
        return {}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for attribute, after in pairwise(definition.body):
        if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    found[attribute.target.id] = " ".join(text.split())
    return found


_TYPES = get_type_hints(RecorderConfig)
_HELP = _docstrings(RecorderConfig)
