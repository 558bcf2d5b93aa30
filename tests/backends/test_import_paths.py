"""What users import from the backends stays where the documents have it, wherever it is written."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

PUBLIC = {
    "archives": ("make_renderer",),
    "camera": ("Camera",),
    "gymnasium": ("GymnasiumBackend", "choose_backend"),
    "kit": ("KitBackend",),
    "mujoco": ("MujocoBackend",),
    "newton": ("NewtonBackend", "NewtonGlBackend", "NewtonWarpBackend"),
    "pixels": ("copy_pixels",),
    "selection": ("BackendSource", "SceneDescription", "select_backend"),
    "sensor": ("SensorBackend",),
    "synthetic": ("SyntheticBackend", "read_step"),
    "visualizer": ("VisualizerBackend",),
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_imported_from_where_the_documents_say(module: str) -> None:
    found = import_module(f"stepreel.backends.{module}")
    assert [name for name in PUBLIC[module] if not hasattr(found, name)] == []


def test_importing_a_backend_loads_no_simulator() -> None:
    heavy = ("newton", "warp", "mujoco", "torch", "pyglet", "omni")
    modules = [f"stepreel.backends.{name}" for name in PUBLIC if name != "gymnasium"]
    code = f"import sys, {', '.join(modules)}; print(*sorted(set({heavy}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []
