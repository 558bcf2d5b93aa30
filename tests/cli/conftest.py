"""The command line as a user meets it: arguments in, an exit status and two streams of text out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pytest
import structlog
from click.testing import CliRunner, Result

from stepreel.cli import main


class Command(Protocol):
    def __call__(self, *arguments: object) -> Result: ...


@pytest.fixture
def stepreel() -> Iterator[Command]:
    """Runs the command with some arguments."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="stepreel")

    yield run
    structlog.reset_defaults()
