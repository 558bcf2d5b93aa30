"""What is installed is what was written, what is allowed beside it, and what importing it costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the source, so that nothing built earlier gets into it."""
    copy = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "app", copy / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    (built,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(built)


def test_every_module_is_in_the_wheel_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    written = {path.relative_to(ROOT / "app").as_posix() for path in (ROOT / "app").rglob("*.py")}
    packed = {name.removeprefix("stepreel/") for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == written | {"py.typed", "gallery/page.css", "gallery/page.js"}


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "app").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_wheel_brings_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert "stepreel = stepreel.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize(("name", "pinned"), [("newton", "1.6.1"), ("warp-lang", "1.17.0")])
def test_the_versions_that_isaac_lab_pins_stay_allowed(name: str, pinned: str) -> None:
    found = [requirement for requirement in map(Requirement, requires("stepreel") or []) if requirement.name == name]
    assert found
    assert all(requirement.specifier.contains(pinned) for requirement in found)


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("newton", "warp", "mujoco", "av", "gymnasium", "pyglet", "PIL", "click", "trio")
    code = f"import sys, stepreel; print(*sorted(set({heavy}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []
