"""The command line, run and not imported: `stepreel demo | record | inspect | ...`, see `_COMMANDS`."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import Any

import click
import structlog

from ..errors import StepreelError
from .printable import printable

_COMMANDS = ("demo", "record", "ps", "wait", "inspect", "recover", "gallery", "view", "render")
_EXTRA_OF_MODULE = {
    "newton": "newton",
    "warp": "newton",
    "pyglet": "newton",
    "PIL": "newton",
    "mujoco": "mujoco",
}


class _Failure(click.ClickException):
    """Something to be put right by whoever called: one line on stderr, exit 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))


class _Commands(click.Group):
    """Commands that are imported when they are named, each from the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        try:
            command = getattr(import_module(f".{cmd_name}", __name__), cmd_name)
        except ModuleNotFoundError as exc:
            return _unavailable(cmd_name, _missing_extra(exc))
        if not isinstance(command, click.Command):
            raise TypeError(f"stepreel.cli.{cmd_name}.{cmd_name} is not a command")
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as exc:
            raise _missing_extra(exc) from exc
        except StepreelError as exc:
            raise _Failure(str(exc)) from exc


def _missing_extra(exc: ModuleNotFoundError) -> _Failure:
    """Return what to install; an import that no extra brings is a mistake of ours, and goes on as it is."""
    module = (exc.name or "").partition(".")[0]
    if module not in _EXTRA_OF_MODULE:
        raise exc
    return _Failure(f"this needs {module}, which is not installed: pip install 'stepreel[{_EXTRA_OF_MODULE[module]}]'")


def _unavailable(name: str, failure: _Failure) -> click.Command:
    def fail() -> None:
        raise failure

    return click.Command(
        name,
        callback=fail,
        params=[click.Argument(["arguments"], nargs=-1, expose_value=False)],
        context_settings={"ignore_unknown_options": True},
        short_help=f"Not installed: {failure.message}",
    )


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stepreel")
def main() -> None:
    """Record video clips of a simulation while a policy trains in it."""
    # The facts are in session.jsonl; the screen gets what somebody has to look at.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
