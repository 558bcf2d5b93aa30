"""`RenderDevice`: the CPU or GPU that a worker draws on, and the environment variables that select it."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigurationError

_LIBRARIES = ("libEGL.so.1", "libGL.so.1")
_VENDOR_FOLDERS = ("/etc/glvnd/egl_vendor.d", "/usr/share/glvnd/egl_vendor.d", "/usr/local/share/glvnd/egl_vendor.d")
"""Folders in which the vendor-neutral libEGL looks for drivers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderDevice:
    """The CPU or GPU that a worker draws on."""

    gpu: int | None
    """The GPU's number among those that this process sees; None: the CPU."""
    environment: Mapping[str, str]
    """Variables of the worker's environment that select the device."""
    opengl_problem: str | None
    """Why OpenGL can't draw there without a window, as far as can be told without trying; None: it may."""

    @property
    def name(self) -> str:
        """ "cpu" or "cuda:<n>"."""
        return "cpu" if self.gpu is None else f"cuda:{self.gpu}"

    @property
    def egl_device(self) -> int:
        """The number of the device in EGL's list, which `CUDA_VISIBLE_DEVICES` doesn't shorten."""
        visible = self.environment.get("CUDA_VISIBLE_DEVICES", "")
        return int(visible) if visible.isdecimal() else self.gpu or 0


def choose_render_device(worker_device: str, training_gpu: int | None) -> RenderDevice:
    """Return the device that `RecorderConfig.worker_device` selects for a worker.

    "auto" is the CPU: a GPU that training computes on would take turns with the drawing, whatever process it is in.

    Args:
        worker_device: "auto", "cpu", "cuda" (the GPU that training computes on, else the first) or "cuda:<n>".
        training_gpu: The number of the GPU that training computes on; None: it computes on the CPU.

    Raises:
        ConfigurationError: another `worker_device`.
    """
    if worker_device in ("auto", "cpu"):
        return _cpu(may_use_gpu=worker_device == "auto" and training_gpu is None)
    if worker_device == "cuda":
        return _gpu(training_gpu or 0)
    number = worker_device.removeprefix("cuda:")
    if number == worker_device or not number.isdecimal():
        raise ConfigurationError(f"worker_device: got {worker_device!r}; allowed: auto, cpu, cuda or cuda:<n>")
    return _gpu(int(number))


def _cpu(*, may_use_gpu: bool) -> RenderDevice:
    environment = {"CUDA_VISIBLE_DEVICES": "", "LIBGL_ALWAYS_SOFTWARE": "1"}
    problem = _library_problem()
    drivers = tuple(_egl_drivers())
    software = next((path for path in drivers if "mesa" in _library_of(path).lower()), None)
    if software is not None:
        environment["__EGL_VENDOR_LIBRARY_FILENAMES"] = str(software)
    elif drivers and not may_use_gpu:
        problem = problem or (
            f"of the EGL drivers found ({', '.join(map(str, drivers))}) none draws on the CPU; install Mesa's "
            '(Debian: libegl-mesa0 libgl1-mesa-dri), or let the worker draw on a GPU with worker_device="cuda"'
        )
    return RenderDevice(gpu=None, environment=environment, opengl_problem=problem)


def _gpu(number: int) -> RenderDevice:
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else []
    environment = {"CUDA_VISIBLE_DEVICES": names[number] if number < len(names) else str(number)}
    return RenderDevice(gpu=number, environment=environment, opengl_problem=_library_problem())


def _library_problem() -> str | None:
    for library in _LIBRARIES:
        try:
            ctypes.CDLL(library)
        except OSError as exc:
            return (
                f"{library} can't be loaded ({exc}); install EGL (Debian: libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri)"
            )
    return None


def _egl_drivers() -> Iterator[Path]:
    """Yield the files that describe EGL drivers, those that the environment names first."""
    named = os.environ.get("__EGL_VENDOR_LIBRARY_FILENAMES", "")
    yield from (Path(name) for name in named.split(":") if name)
    for folder in _VENDOR_FOLDERS:
        yield from sorted(Path(folder).glob("*.json"))


def _library_of(driver: Path) -> str:
    """Return the library that an EGL driver's file names, empty where it names none."""
    try:
        return str(json.loads(driver.read_bytes())["ICD"]["library_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
