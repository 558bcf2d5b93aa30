"""`stepreel` itself: its commands, its version, and what it says where an extra is missing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import click
import pytest

from .conftest import Command

WITHOUT_NEWTON = "import sys; sys.modules.update(newton=None, warp=None); from stepreel.cli import main; main()"


def _run_without_newton(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT_NEWTON, *arguments], capture_output=True, text=True)


def test_help_lists_every_command(stepreel: Command) -> None:
    result = stepreel("--help")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.partition("Commands:\n")[2].splitlines()] == [
        "demo",
        "record",
        "ps",
        "wait",
        "inspect",
        "recover",
        "gallery",
        "view",
        "render",
    ]


def test_an_unknown_command_is_refused(stepreel: Command) -> None:
    result = stepreel("rewind")
    assert result.exit_code == 2
    assert "No such command 'rewind'" in result.stderr


def test_the_version_is_that_of_the_installed_distribution(stepreel: Command) -> None:
    assert version("stepreel") in stepreel("--version").output


@pytest.mark.parametrize("module", ["stepreel.cli"])
def test_the_command_runs_as_a_module_too(module: str) -> None:
    result = subprocess.run([sys.executable, "-m", module, "--version"], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == f"stepreel, version {version('stepreel')}"


def test_without_newton_the_demo_says_what_to_install() -> None:
    result = _run_without_newton("demo")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "pip install 'stepreel[newton]'" in result.stderr.splitlines()[-1]


def test_without_newton_the_other_commands_are_there() -> None:
    result = _run_without_newton("record", "--help")
    assert result.returncode == 0
    assert "ENV_ID" in result.stdout


def test_without_newton_help_still_lists_the_commands() -> None:
    result = _run_without_newton("--help")
    assert result.returncode == 0
    assert "record" in click.unstyle(result.stdout)
