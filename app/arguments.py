"""Command-line options made from the fields of `RecorderConfig`: names, types, defaults and help have one place."""

from __future__ import annotations

import argparse
import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from .config import FLAGS, RecorderConfig, check_setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What a command line needs to know of a setting."""

    name: str
    """The field's."""
    kind: type
    """What the setting is made of: int, float, str, bool or an enum of words; where it may be None, besides that."""
    default: Any
    """An enum's as the word; `dataclasses.MISSING` where the field has none."""
    help: str | None
    """What stands under the field, or else what its enum says of itself; None where the source is not at hand."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The words of an enum; none for other kinds."""
        return tuple(member.value for member in self.kind) if issubclass(self.kind, StrEnum) else ()


@cache
def options() -> tuple[Option, ...]:
    """Return an option for each setting, but for those that are functions, which no command line can give."""
    types, texts = get_type_hints(RecorderConfig), _docstrings(RecorderConfig)
    kinds = {field: _kind(types[field.name]) for field in fields(RecorderConfig)}
    return tuple(
        Option(
            name=field.name,
            kind=kind,
            default=field.default.value if isinstance(field.default, StrEnum) else field.default,
            help=texts.get(field.name) or (inspect.getdoc(kind) if issubclass(kind, StrEnum) else None),
        )
        for field, kind in kinds.items()
        if get_origin(kind) is not Callable
    )


def add_video_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser `--video`, and flags for when clips are recorded and what happens when frames queue up.

    They are the fields of `RecorderConfig` that decide that, with its defaults, spelled with `_` or with `-`.
    `RecorderConfig.from_arguments` takes what was parsed. A value that can't work is an error of the parser's own,
    with the flag and what is allowed.

    Raises:
        argparse.ArgumentError: the parser has one of the flags already.
    """
    group = parser.add_argument_group("video recording")
    group.add_argument("--video", action="store_true", help="Record clips while training.")
    for option in options():
        if option.name in FLAGS:
            _add(group, option)


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    text = (option.help or "").replace("%", "%%")
    group.add_argument(
        f"--{option.name}",
        f"--{option.name.replace('_', '-')}",
        type=_parser(option),
        default=option.default,
        metavar="{" + ",".join(option.choices) + "}" if option.choices else option.kind.__name__.upper(),
        help=f"{text} (default: %(default)s)",
    )


def _parser(option: Option) -> Callable[[str], object]:
    """Return what makes a value of the words on a command line; raises what a parser tells its user."""

    def parse(text: str) -> object:
        try:
            value: object = option.kind(text)
        except ValueError:
            value = text
        allowed = check_setting(option.name, value)
        if allowed:
            raise argparse.ArgumentTypeError(f"got {text!r}; allowed: {allowed}")
        return value

    return parse


def _kind(annotation: Any) -> Any:
    """Return what a setting is made of: of a union, its first alternative."""
    return get_args(annotation)[0] if get_origin(annotation) in (Union, UnionType) else annotation


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
