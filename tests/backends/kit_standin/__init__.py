"""A stand-in for the parts of Isaac Sim that `KitBackend` calls: `omni.*`, `isaacsim.*`, `carb`, `pxr`.

It keeps the documented contract, with what is awkward about it: pictures come from `app.update()` only, and only to
render products that are not paused; the first ones are empty; the array is RGBA, flat or not, bare or in a dict, and is
written over by the next picture; poses are stale until somebody brings them up to date; an update advances the physics
unless told otherwise, runs callbacks, and swallows what they raise; nothing may be called on another thread.

What it draws is the step of the poses, readable with `stepreel.backends.synthetic.read_step`. It proves that
`KitBackend` follows the contract as documented. It proves nothing about a real Kit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stepreel.backends.synthetic import SyntheticRenderer

PERSPECTIVE = "/OmniverseKit_Persp"
PLAYS = "/app/player/playSimulations"


class Form(StrEnum):
    """How an annotator gives its picture."""

    ARRAY = "array"
    FLAT = "flat"
    DICT = "dict"
    FLAT_IN_DICT = "flat in a dict"


class KitError(Exception):
    """What Kit raises of its own."""


@dataclass
class CameraPrim:
    eye: tuple[float, ...] | None = None
    target: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Drawn:
    """One picture that was drawn."""

    step: int
    eye: tuple[float, ...] | None


@dataclass
class KitStandIn:
    """A running app with a stage in it."""

    form: Form = Form.ARRAY
    empty_pictures: int = 0
    """Pictures of each render product that are empty: it warms up."""
    black_steps: frozenset[int] = frozenset()
    failing_steps: frozenset[int] = frozenset()
    """States at which the renderer raises."""
    is_running: bool = True
    viewport: bool = True
    """Whether there is a viewport, and so its camera."""
    step: int = -1
    """State of the physics."""
    posed_step: int = -1
    """State whose poses the stage shows."""
    updates: int = 0
    drawn: list[Drawn] = field(default_factory=list)
    products: list[_RenderProduct] = field(default_factory=list)
    annotators: list[_Annotator] = field(default_factory=list)
    callbacks: list[Callable[[], object]] = field(default_factory=list)
    swallowed: list[BaseException] = field(default_factory=list)
    advanced_by_updates: int = 0
    """Physics steps that an update made because nobody told it not to."""
    settings: dict[str, object] = field(default_factory=lambda: {PLAYS: True})
    cameras: dict[str, CameraPrim] = field(default_factory=dict)
    others: list[str] = field(default_factory=lambda: ["/World", "/World/Robot"])

    def __post_init__(self) -> None:
        self._thread = threading.get_ident()
        if self.viewport:
            self.cameras[PERSPECTIVE] = CameraPrim()

    @property
    def leftovers(self) -> list[object]:
        """Annotators still attached and render products still alive."""
        attached: list[object] = [one for one in self.annotators if one.product is not None]
        return attached + [one for one in self.products if not one.is_destroyed]

    @property
    def rendering(self) -> list[_RenderProduct]:
        """Render products that an update would draw."""
        return [one for one in self.products if one.is_active and not one.is_destroyed]

    def check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise AssertionError("Kit was called on a thread that is not its own")

    def update(self) -> None:
        """`app.update()`: callbacks, physics unless told otherwise, and a picture for each active render product."""
        self.check_thread()
        self.updates += 1
        for callback in self.callbacks:
            try:
                callback()
            except BaseException as exc:  # noqa: BLE001 - Kit does swallow them, KeyboardInterrupt too.
                self.swallowed.append(exc)
        if self.settings[PLAYS]:
            self.advanced_by_updates += 1
        if self.posed_step in self.failing_steps:
            raise KitError(f"the renderer lost its device at step {self.posed_step}")
        for product in self.rendering:
            product.draw()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the modules importable until the test ends."""
        for name, contents in self._modules().items():
            module = ModuleType(name)
            for attribute, value in contents.items():
                setattr(module, attribute, value)
            monkeypatch.setitem(__import__("sys").modules, name, module)

    def _modules(self) -> dict[str, dict[str, object]]:
        app = SimpleNamespace(update=self.update, is_running=lambda: self.is_running)
        replicator: dict[str, object] = {
            "create": SimpleNamespace(render_product=lambda path, size: _RenderProduct(self, path, size)),
            "AnnotatorRegistry": SimpleNamespace(get_annotator=self._get_annotator),
        }
        settings = SimpleNamespace(get=self.settings.get, set=self.settings.__setitem__)
        usd_context = SimpleNamespace(get_stage=lambda: _Stage(self))
        return {
            "omni": {},
            "omni.kit": {},
            "omni.kit.app": {"get_app": lambda: app},
            "omni.usd": {"get_context": lambda: usd_context},
            "omni.replicator": {},
            "omni.replicator.core": replicator,
            "isaacsim": {},
            "isaacsim.core": {},
            "isaacsim.core.rendering_manager": {"ViewportManager": SimpleNamespace(set_camera_view=self._aim)},
            "carb": {},
            "carb.settings": {"get_settings": lambda: settings},
            "pxr": {},
            "pxr.UsdGeom": {"Camera": SimpleNamespace(Define=self._define_camera)},
        }

    def _aim(self, prim_path: str, *, eye: list[float], target: list[float]) -> None:
        self.check_thread()
        if prim_path not in self.cameras:
            raise KitError(f"no camera at {prim_path}")
        self.cameras[prim_path] = CameraPrim(tuple(eye), tuple(target))

    def _define_camera(self, stage: _Stage, path: str) -> None:
        self.check_thread()
        self.cameras[path] = CameraPrim()

    def _get_annotator(self, name: str, device: str = "cuda") -> _Annotator:
        self.check_thread()
        assert name == "rgb"
        return _Annotator(self, device)


class _RenderProduct:
    def __init__(self, kit: KitStandIn, prim_path: str, size: tuple[int, int]) -> None:
        kit.check_thread()
        if prim_path not in kit.cameras:
            raise KitError(f"no camera at {prim_path}")
        self.is_active = True
        self.is_destroyed = False
        self.pictures = 0
        self._kit = kit
        self._prim_path = prim_path
        width, height = size
        self._renderer = SyntheticRenderer(width=width, height=height)
        self._renderer.open()
        self.rgba = np.zeros((height, width, 4), np.uint8)
        kit.products.append(self)

    def resume(self) -> None:
        self._check()
        self.is_active = True

    def pause(self) -> None:
        self._check()
        self.is_active = False

    def destroy(self) -> None:
        self._check()
        assert all(one.product is not self for one in self._kit.annotators), "destroyed with an annotator attached"
        self.is_destroyed = True

    def draw(self) -> None:
        step = self._kit.posed_step
        self.pictures += 1
        self._kit.drawn.append(Drawn(step, self._kit.cameras[self._prim_path].eye))
        picture = np.zeros((*self.rgba.shape[:2], 3), np.uint8)
        if step not in self._kit.black_steps:
            self._renderer.draw(step, picture)
        self.rgba[..., :3] = picture
        self.rgba[..., 3] = 255

    def _check(self) -> None:
        self._kit.check_thread()
        if self.is_destroyed:
            raise KitError("the render product was destroyed")


class _Annotator:
    def __init__(self, kit: KitStandIn, device: str) -> None:
        self.product: _RenderProduct | None = None
        self._kit = kit
        self._device = device
        kit.annotators.append(self)

    def attach(self, products: list[_RenderProduct]) -> None:
        self._kit.check_thread()
        (self.product,) = products

    def detach(self) -> None:
        self._kit.check_thread()
        if self.product is None:
            raise KitError("the annotator is not attached")
        self.product = None

    def get_data(self) -> object:
        self._kit.check_thread()
        if self.product is None:
            raise KitError("the annotator is not attached")
        if self._device != "cpu":
            return _OnTheDevice()
        is_flat = self._kit.form in (Form.FLAT, Form.FLAT_IN_DICT)
        data: NDArray[np.uint8] = np.array([], np.uint8)
        if self.product.pictures > self._kit.empty_pictures:
            data = self.product.rgba.reshape(-1) if is_flat else self.product.rgba
        if self._kit.form in (Form.DICT, Form.FLAT_IN_DICT):
            return {"data": data, "info": {"id": 1}}
        return data


class _OnTheDevice:
    """An array in GPU memory, which numpy can't read."""

    def __array__(self, *args: object, **kwargs: object) -> NDArray[Any]:
        raise TypeError("the array is on cuda:0")


class _Stage:
    def __init__(self, kit: KitStandIn) -> None:
        self._kit = kit

    def GetPrimAtPath(self, path: str) -> _Prim:
        return _Prim(self._kit, path)

    def Traverse(self) -> Iterator[_Prim]:
        return (_Prim(self._kit, path) for path in [*self._kit.others, *self._kit.cameras])


class _Prim:
    def __init__(self, kit: KitStandIn, path: str) -> None:
        self._kit = kit
        self._path = path

    def IsValid(self) -> bool:
        return self._path in self._kit.cameras or self._path in self._kit.others

    def IsA(self, schema: object) -> bool:
        return self._path in self._kit.cameras

    def GetPath(self) -> str:
        return self._path


class Simulation:
    """What steps the physics, as Isaac Lab's `SimulationContext` does; with a visualizer it also renders."""

    def __init__(self, kit: KitStandIn, *, is_rendering: bool = False) -> None:
        self.is_rendering = is_rendering
        self.is_drawn = False
        self.forwards = 0
        self._kit = kit

    def step(self, *, render: bool = True) -> None:
        """Advance the physics by one step, and render it where the simulation renders by itself."""
        self._kit.step += 1
        self.is_drawn = False
        if self.is_rendering and render:
            self.forward()
            self._kit.settings[PLAYS] = False
            self._kit.update()
            self._kit.settings[PLAYS] = True
            self.is_drawn = True

    def forward(self) -> None:
        """Bring the poses up to date."""
        self.forwards += 1
        self._kit.posed_step = self._kit.step
