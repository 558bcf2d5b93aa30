from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepreel.backends import render_device
from stepreel.backends.render_device import choose_render_device
from stepreel.errors import ConfigurationError


@pytest.fixture
def vendors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which EGL drivers are looked for."""
    monkeypatch.setattr(render_device, "_VENDOR_FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(render_device, "_LIBRARIES", ())
    monkeypatch.delenv("__EGL_VENDOR_LIBRARY_FILENAMES", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def add_driver(folder: Path, file: str, library: str) -> Path:
    path = folder / file
    path.write_text(json.dumps({"file_format_version": "1.0.0", "ICD": {"library_path": library}}))
    return path


@pytest.mark.parametrize("worker_device", ["auto", "cpu"])
def test_a_worker_beside_training_on_a_gpu_draws_with_mesa_and_sees_no_gpu(vendors: Path, worker_device: str) -> None:
    add_driver(vendors, "10_nvidia.json", "libEGL_nvidia.so.0")
    mesa = add_driver(vendors, "50_software.json", "libEGL_mesa.so.0")
    device = choose_render_device(worker_device, training_gpu=0)
    assert device.name == "cpu"
    assert device.opengl_problem is None
    assert device.environment == {
        "CUDA_VISIBLE_DEVICES": "",
        "LIBGL_ALWAYS_SOFTWARE": "1",
        "__EGL_VENDOR_LIBRARY_FILENAMES": str(mesa),
    }


def test_without_mesa_opengl_is_no_choice_beside_training_on_a_gpu(vendors: Path) -> None:
    nvidia = add_driver(vendors, "10_nvidia.json", "libEGL_nvidia.so.0")
    device = choose_render_device("auto", training_gpu=0)
    assert device.opengl_problem is not None
    assert str(nvidia) in device.opengl_problem
    assert "install Mesa" in device.opengl_problem


def test_without_mesa_training_on_the_cpu_leaves_an_idle_gpu_to_opengl(vendors: Path) -> None:
    add_driver(vendors, "10_nvidia.json", "libEGL_nvidia.so.0")
    assert choose_render_device("auto", training_gpu=None).opengl_problem is None
    assert choose_render_device("cpu", training_gpu=None).opengl_problem is not None


def test_a_driver_file_that_can_not_be_read_is_no_driver_for_the_cpu(vendors: Path) -> None:
    (vendors / "00_broken.json").write_text("{")
    (vendors / "01_list.json").write_text("[]")
    assert "__EGL_VENDOR_LIBRARY_FILENAMES" not in choose_render_device("auto", training_gpu=None).environment


def test_a_driver_named_by_the_environment_comes_first(vendors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_driver(vendors, "50_mesa.json", "libEGL_mesa.so.0")
    (vendors / "own").mkdir()
    own = add_driver(vendors / "own", "mesa.json", "libEGL_mesa.so.1")
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", str(own))
    assert choose_render_device("cpu", training_gpu=None).environment["__EGL_VENDOR_LIBRARY_FILENAMES"] == str(own)


@pytest.mark.parametrize(
    ("worker_device", "training_gpu", "visible", "name", "expected"),
    [
        ("cuda", None, None, "cuda:0", "0"),
        ("cuda", 2, None, "cuda:2", "2"),
        ("cuda:1", 0, None, "cuda:1", "1"),
        ("cuda:1", 0, "5,7", "cuda:1", "7"),
        ("cuda", None, "GPU-8a1f,GPU-03bc", "cuda:0", "GPU-8a1f"),
    ],
)
def test_a_worker_sees_only_the_gpu_that_it_draws_on(
    vendors: Path,
    monkeypatch: pytest.MonkeyPatch,
    worker_device: str,
    training_gpu: int | None,
    visible: str | None,
    name: str,
    expected: str,
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device = choose_render_device(worker_device, training_gpu)
    assert device.name == name
    assert device.environment == {"CUDA_VISIBLE_DEVICES": expected}


def test_a_missing_library_is_named(vendors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_device, "_LIBRARIES", ("libc.so.6", "libnowhere.so.1"))
    for worker_device in ("cpu", "cuda"):
        problem = choose_render_device(worker_device, training_gpu=None).opengl_problem
        assert problem is not None
        assert "libnowhere.so.1" in problem


@pytest.mark.parametrize("worker_device", ["gpu", "cuda:", "cuda:x", "", "cuda:-1"])
def test_another_device_is_refused(worker_device: str) -> None:
    with pytest.raises(ConfigurationError, match="allowed: auto, cpu, cuda or cuda:<n>"):
        choose_render_device(worker_device, training_gpu=None)
