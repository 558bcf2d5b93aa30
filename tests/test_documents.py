"""The documents say what is there: settings, events, files, and examples that run."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog

from stepreel import ClipState, DropCause, DropPolicy, RecorderConfig, Statistics
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.storage.manifest import read_manifest

from .recordings import is_balanced

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md")), *sorted(ROOT.glob("docs/*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")
_LOGGING = {"info", "warning", "trouble", "warn", "_report", "_note"}
_COUNTING = {"trouble", "warn", "_report"}


def blocks(path: Path, language: str) -> list[str]:
    return [code for name, code in _FENCE.findall(path.read_text(encoding="utf-8")) if name == language]


def table(marker: str) -> list[list[str]]:
    """Return the cells of the README's table between `<!-- marker -->` and `<!-- end of marker -->`."""
    text = README.read_text(encoding="utf-8")
    body = text.split(f"<!-- {marker} -->")[1].split(f"<!-- end of {marker} -->")[0]
    lines = [line for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def table_under(heading: str) -> dict[str, str]:
    """Return first and last cells of the first table after a line of the README that begins with `heading`."""
    text = README.read_text(encoding="utf-8").split(f"\n{heading}")[1]
    lines = text[: re.search(r"^\|.*\n(?!\|)", text, re.MULTILINE).end()].splitlines()  # type: ignore[union-attr]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| `")]
    return {first: last for first, *_, last in cells}


def shown(default: object) -> str:
    """Return a default as the README's table shows it."""
    if default is dataclasses.MISSING:
        return "required"
    if isinstance(default, Enum):
        return f"`{type(default).__name__}.{default.name}`"
    return f"`{json.dumps(default)}`" if isinstance(default, str) else f"`{default!r}`"


def test_the_table_of_settings_has_every_field_with_its_default() -> None:
    expected = [(f"`{field.name}`", shown(field.default)) for field in dataclasses.fields(RecorderConfig)]
    assert [(name, default) for name, default, _ in table("settings")] == expected
    assert all(meaning.endswith(".") for _, _, meaning in table("settings"))


def logged_events() -> Iterator[tuple[str, set[str]]]:
    """Yield each event that the package logs, with its keys, from its source."""
    for path in (ROOT / "app").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match call:
                case ast.Call(
                    func=ast.Attribute(attr=name), args=[ast.Constant(value=str(event)), *_], keywords=given
                ) if name in _LOGGING and re.fullmatch(r"[a-z]+\.[a-z_]+", event):
                    keys = {keyword.arg for keyword in given if keyword.arg}
                    yield event, keys | ({"kind", "count"} if name in _COUNTING else set())
                case ast.Call(
                    func=ast.Attribute(attr="write"),
                    args=[ast.Constant(), ast.Constant(value=str(event)), ast.Dict(keys=names)],
                ):
                    yield event, {str(name.value) for name in names if isinstance(name, ast.Constant)}


def test_the_table_of_events_has_every_event_with_its_keys() -> None:
    expected: dict[str, set[str]] = {}
    for event, keys in logged_events():
        expected.setdefault(event, set()).update(keys)
    found = {event.strip("`"): set(_CODE.findall(keys)) for event, keys in table("events")}
    assert len(expected) > 10
    assert found == expected


def test_every_cause_state_policy_and_statistic_is_explained() -> None:
    assert set(table_under("| cause of a drop")) == {f"`{cause}`" for cause in DropCause}
    assert set(table_under("| `state` | the clip |")) == {f"`{state}`" for state in ClipState}
    policies = {name.removesuffix(" (default)") for name in table_under("| policy |")}
    assert policies == {f"`{policy.name}`" for policy in DropPolicy}
    statistics = ", ".join(table_under("## Statistics"))
    assert set(_CODE.findall(statistics)) == {field.name for field in dataclasses.fields(Statistics)}


def test_the_manifest_shown_is_one(tmp_path: Path) -> None:
    (text,) = blocks(README, "json")
    path = tmp_path / "rl-video-step-0.json"
    path.write_text(text)
    clip = read_manifest(path)
    assert is_balanced(clip.frames)
    assert clip.frames.encoded == sum(segment.frames for segment in clip.segments)
    assert clip.frames.dropped_total == sum(last - first + 1 for first, last in clip.missing_steps)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_linked_is_there(path: Path) -> None:
    prose = _FENCE.sub("", path.read_text(encoding="utf-8"))
    targets = [target for target in _LINK.findall(prose) if "://" not in target]
    missing = [target for target in targets if not (path.parent / target.partition("#")[0]).exists()]
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_python_block_compiles(path: Path) -> None:
    for code in blocks(path, "python"):
        compile(code, str(path), "exec", dont_inherit=True)


def test_every_module_is_in_the_map_of_the_architecture() -> None:
    listed = "\n".join(blocks(ROOT / "docs" / "architecture.md", ""))
    for path in (ROOT / "app").rglob("*.py"):
        if path.name != "__init__.py" and path.parent.name not in ("cli", "demo"):
            assert path.name in listed


class Done:
    """What a training step returns here: may be awaited, and need not be."""

    def __await__(self) -> Iterator[None]:
        return iter(())


@pytest.fixture
def newton_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a `NewtonBackend` in place that takes the same arguments and records the synthetic simulator."""

    def backend(model: object, get_state: Any, *, steps_per_second: float = 30.0, **camera: Any) -> SyntheticBackend:
        assert get_state() == "state"
        return SyntheticBackend(steps_per_second=steps_per_second, snapshot=True)

    module = ModuleType("stepreel.backends.newton")
    module.NewtonBackend = backend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def quiet() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def run_example(code: str, folder: Path) -> None:
    """Run a block of the README, its output folder below `folder`."""
    code = re.sub(r'(?<=output_dir=")', f"{folder.as_posix()}/", code)
    names = {"__name__": "example", "model": "model", "state": "state", "steps": 210, "train_step": Done}
    exec(compile(code, str(README), "exec", dont_inherit=True), names)


@pytest.mark.parametrize("number", range(len(blocks(README, "python"))))
@pytest.mark.usefixtures("newton_stand_in", "quiet")
def test_every_example_runs_and_its_clips_are_complete(number: int, tmp_path: Path) -> None:
    code = blocks(README, "python")[number]
    run_example(code, tmp_path)
    clips = [read_manifest(path) for path in tmp_path.rglob("rl-video-*.json")]
    assert [clip for clip in clips if clip.state is not ClipState.COMPLETE] == []
    assert bool(clips) == ("Recorder(" in code)


def test_the_clips_made_by_hand_are_called_as_the_example_says(tmp_path: Path) -> None:
    (code,) = [code for code in blocks(README, "python") if "start_clip" in code]
    run_example(code, tmp_path)
    names = sorted(path.name for path in tmp_path.rglob("*.mp4"))
    assert names == sorted(re.findall(r"# (\S+\.mp4)", code))
    (named, paused) = (read_manifest(next(tmp_path.rglob(name.replace(".mp4", ".json")))) for name in names)
    assert (named.frames.encoded, paused.frames.encoded) == (50, 40)
    assert paused.segments[0].duration_s == pytest.approx(60 / 30)
