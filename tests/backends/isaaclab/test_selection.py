"""The rules that choose a source of pictures and a camera, as tables: a row for each rule and each pair of signals."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from typing import Any

import pytest

from stepreel.backends.camera import Camera
from stepreel.backends.isaaclab.selection import (
    BackendKind,
    BackendSource,
    CameraKind,
    Channel,
    Choice,
    OriginType,
    Physics,
    SceneDescription,
    SensorDescription,
    SourceKind,
    Viewpoint,
    VisualizerDescription,
    nearest_worlds,
    select_backend,
)
from stepreel.errors import BackendError, ConfigurationError, SourceUnavailableError

SIGNALS = ("kit", "newton", "rtx_viewer", "rerun", "viser", "physx", "newton_physics", "isaac_rtx", "warp", "ovrtx")
_VISUALIZERS = {"kit": "kit", "newton": "newton_gl", "rtx_viewer": "newton_rtx", "rerun": "rerun", "viser": "viser"}
_PHYSICS = {"physx": Physics.PHYSX, "newton_physics": Physics.NEWTON}
_RENDERERS = {"isaac_rtx": "isaac_rtx", "warp": "newton_warp", "ovrtx": "ovrtx"}


def scene_with(*signals: str, **parts: Any) -> SceneDescription:
    physics = [_PHYSICS[signal] for signal in signals if signal in _PHYSICS]
    return SceneDescription(
        visualizers=tuple(
            VisualizerDescription(type=_VISUALIZERS[signal]) for signal in signals if signal in _VISUALIZERS
        ),
        physics=physics[0] if physics else None,
        renderers=frozenset(_RENDERERS[signal] for signal in signals if signal in _RENDERERS),
        **parts,
    )


def chosen(scene: SceneDescription, source: str) -> str:
    """What records, or "none"."""
    try:
        return str(select_backend(scene, BackendSource.parse(source)).backend)
    except SourceUnavailableError:
        return "none"


KIT, GL, NONE = "kit", "newton_gl", "none"

# Signals in the scene; what records it by its visualizers; what by its physics and renderers.
TABLE: list[tuple[tuple[str, ...], str, str]] = [
    ((), NONE, NONE),
    (("kit",), KIT, NONE),
    (("newton",), GL, NONE),
    (("rtx_viewer",), GL, NONE),
    (("rerun",), NONE, NONE),
    (("viser",), NONE, NONE),
    (("physx",), KIT, KIT),
    (("newton_physics",), GL, GL),
    (("isaac_rtx",), KIT, KIT),
    (("warp",), GL, GL),
    (("ovrtx",), NONE, NONE),
    (("kit", "newton"), KIT, NONE),
    (("kit", "rtx_viewer"), KIT, NONE),
    (("kit", "rerun"), KIT, NONE),
    (("kit", "viser"), KIT, NONE),
    (("kit", "physx"), KIT, KIT),
    (("kit", "newton_physics"), KIT, GL),
    (("kit", "isaac_rtx"), KIT, KIT),
    (("kit", "warp"), KIT, GL),
    (("kit", "ovrtx"), KIT, NONE),
    (("newton", "rtx_viewer"), GL, NONE),
    (("newton", "rerun"), GL, NONE),
    (("newton", "viser"), GL, NONE),
    (("newton", "physx"), GL, KIT),
    (("newton", "newton_physics"), GL, GL),
    (("newton", "isaac_rtx"), GL, KIT),
    (("newton", "warp"), GL, GL),
    (("newton", "ovrtx"), GL, NONE),
    (("rtx_viewer", "rerun"), GL, NONE),
    (("rtx_viewer", "viser"), GL, NONE),
    (("rtx_viewer", "physx"), GL, KIT),
    (("rtx_viewer", "newton_physics"), GL, GL),
    (("rtx_viewer", "isaac_rtx"), GL, KIT),
    (("rtx_viewer", "warp"), GL, GL),
    (("rtx_viewer", "ovrtx"), GL, NONE),
    (("rerun", "viser"), NONE, NONE),
    (("rerun", "physx"), KIT, KIT),
    (("rerun", "newton_physics"), GL, GL),
    (("rerun", "isaac_rtx"), KIT, KIT),
    (("rerun", "warp"), GL, GL),
    (("rerun", "ovrtx"), NONE, NONE),
    (("viser", "physx"), KIT, KIT),
    (("viser", "newton_physics"), GL, GL),
    (("viser", "isaac_rtx"), KIT, KIT),
    (("viser", "warp"), GL, GL),
    (("viser", "ovrtx"), NONE, NONE),
    (("physx", "isaac_rtx"), KIT, KIT),
    (("physx", "warp"), KIT, KIT),
    (("physx", "ovrtx"), KIT, KIT),
    (("newton_physics", "isaac_rtx"), KIT, KIT),
    (("newton_physics", "warp"), GL, GL),
    (("newton_physics", "ovrtx"), GL, GL),
    (("isaac_rtx", "warp"), KIT, KIT),
    (("isaac_rtx", "ovrtx"), KIT, KIT),
    (("warp", "ovrtx"), GL, GL),
]


def test_the_table_has_a_row_for_every_signal_and_every_pair() -> None:
    pairs = [pair for pair in itertools.combinations(SIGNALS, 2) if pair != ("physx", "newton_physics")]
    assert [signals for signals, _, _ in TABLE] == [(), *((signal,) for signal in SIGNALS), *pairs]


@pytest.mark.parametrize(("signals", "by_visualizer", "by_stack"), TABLE, ids=lambda part: str(part))
def test_each_signal_and_each_pair_selects_as_the_rules_say(
    signals: tuple[str, ...], by_visualizer: str, by_stack: str
) -> None:
    assert chosen(scene_with(*signals), "visualizer") == by_visualizer
    assert chosen(scene_with(*reversed(signals)), "visualizer") == by_visualizer, "the order does not matter"
    assert chosen(scene_with(*signals), "renderer") == by_stack


@pytest.mark.parametrize(
    ("source", "signals", "expected"),
    [
        ("visualizer:kit", ("newton", "kit"), KIT),
        ("visualizer:newton", ("kit", "newton"), GL),
        ("visualizer:newton_gl", ("kit", "newton"), GL),
        ("visualizer:newton_rtx", ("kit", "rtx_viewer"), "visualizer"),
        ("visualizer:newton", ("kit", "rtx_viewer", "newton_physics"), NONE),
        ("visualizer:kit", ("newton", "physx", "isaac_rtx"), NONE),
        ("visualizer:rerun", ("rerun", "newton_physics"), NONE),
        ("visualizer:viser", ("viser", "newton_physics"), NONE),
    ],
)
def test_a_named_visualizer_is_taken_and_no_other(source: str, signals: tuple[str, ...], expected: str) -> None:
    assert chosen(scene_with(*signals), source) == expected


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("visualizer", BackendSource()),
        ("renderer", BackendSource(kind=SourceKind.RENDERER)),
        (" Visualizer : Kit ", BackendSource(visualizer="kit")),
        ("visualizer:newton", BackendSource(visualizer="newton_gl")),
        ("visualizer:newton_gl", BackendSource(visualizer="newton_gl")),
        ("visualizer:newton_rtx", BackendSource(visualizer="newton_rtx")),
        ("visualizer:newton:streaming_view", BackendSource(visualizer="newton_gl", streaming_view=True)),
        ("sensor:Front_Cam", BackendSource(kind=SourceKind.SENSOR, sensor="Front_Cam")),
        ("sensor:cam:depth", BackendSource(kind=SourceKind.SENSOR, sensor="cam", channel=Channel.DEPTH)),
        ("sensor: cam : RGB", BackendSource(kind=SourceKind.SENSOR, sensor="cam")),
        ("sensor:cam:segmentation", BackendSource(kind=SourceKind.SENSOR, sensor="cam", channel=Channel.SEGMENTATION)),
        ("sensor:cam:normals", BackendSource(kind=SourceKind.SENSOR, sensor="cam", channel=Channel.NORMALS)),
    ],
)
def test_older_words_and_newer_strings_are_understood(text: str, parsed: BackendSource) -> None:
    assert BackendSource.parse(text) == parsed
    assert BackendSource.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", r'"visualizer", "renderer"'),
        ("camera:front", r'"sensor:<name>"'),
        ("renderer:newton", r'"renderer"'),
        ("sensor", r'"sensor:<name>"'),
        ("sensor:", r'"sensor:<name>"'),
        ("sensor:cam:rgb:0", r'"sensor:<name>:<channel>"'),
        ("sensor:cam:thermal", r"rgb, depth, segmentation, normals"),
        ("visualizer:unreal", r"newton, kit, newton_gl, newton_rtx, rerun, viser"),
        ("visualizer:kit:tiled", r"streaming_view"),
        (None, r'"visualizer", "renderer"'),
    ],
)
def test_another_source_is_refused_with_what_is_allowed(text: Any, allowed: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"got .*; allowed.*{allowed}"):
        BackendSource.parse(text)


@pytest.mark.parametrize(
    ("scene", "source", "told"),
    [
        (scene_with(), "visualizer", ["found none;", "--viz newton_gl", "sensor:<name>"]),
        (scene_with("viser"), "visualizer", ["found the viser visualizer", "Viser shows pictures in a browser only"]),
        (scene_with("rerun"), "visualizer", ["found the rerun visualizer", ".rrd"]),
        (scene_with("ovrtx"), "renderer", ["found the OVRTX renderer"]),
        (scene_with("kit"), "renderer", ["found the kit visualizer", 'pass source="visualizer:kit"']),
        (
            scene_with("rerun", "newton_physics"),
            "visualizer:newton",
            ["active newton_gl visualizer, found rerun", "--viz newton_gl", 'source="renderer"'],
        ),
        (scene_with("viser", "physx"), "visualizer:viser", ["in a browser only", 'source="renderer"']),
        (
            scene_with("kit", sensors=(SensorDescription(name="front", outputs=("rgb",)),)),
            "sensor:back",
            ["the camera 'back'", "found front"],
        ),
        (
            scene_with("kit", sensors=(SensorDescription(name="front", outputs=("rgb", "depth")),)),
            "sensor:front:normals",
            ["sensor 'front'", "looked for normals", "found rgb, depth"],
        ),
        (scene_with("newton_physics"), "sensor:back", ["found none", "add a camera", 'source="renderer"']),
        (
            scene_with("newton", "newton_physics"),
            "visualizer:newton:streaming_view",
            ["no streaming view", "streaming_view=True", 'source="visualizer:newton_gl" or "renderer"'],
        ),
    ],
)
def test_a_source_that_is_not_there_is_told_with_what_was_found_and_what_to_pass(
    scene: SceneDescription, source: str, told: list[str]
) -> None:
    with pytest.raises(SourceUnavailableError) as caught:
        select_backend(scene, BackendSource.parse(source))
    assert isinstance(caught.value, BackendError)
    for part in told:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("signals", "source", "reason"),
    [
        (("newton", "kit"), "visualizer", "a Kit visualizer is active, which comes before newton_gl"),
        (("rerun", "newton_physics", "ovrtx"), "visualizer", "no Kit or Newton visualizer .* there is Newton physics$"),
        (("newton_physics", "isaac_rtx"), "renderer", "the Isaac RTX renderer, which comes before Newton physics"),
        (("rtx_viewer",), "visualizer", "drawn by Newton GL, pass visualizer:newton_rtx"),
    ],
)
def test_the_reason_tells_what_decided(signals: tuple[str, ...], source: str, reason: str) -> None:
    choice = select_backend(scene_with(*signals), BackendSource.parse(source))
    assert re.search(reason, choice.reason)


@pytest.mark.parametrize("output", ["depth", "distance_to_image_plane", "distance_to_camera"])
def test_a_camera_of_the_scene_is_taken_whatever_its_depth_is_called(output: str) -> None:
    scene = scene_with("kit", "physx", sensors=(SensorDescription(name="front", outputs=("rgb", output)),))
    choice = select_backend(scene, BackendSource.parse("sensor:front:depth"))
    assert (choice.backend, choice.camera, choice.width) == (BackendKind.SENSOR, None, None)


def test_a_visualizers_own_pictures_are_taken_with_its_own_camera_and_size() -> None:
    streaming = VisualizerDescription(type="kit", streaming_view=True)
    scene = SceneDescription(visualizers=(VisualizerDescription(type="rerun"), streaming), physics=Physics.PHYSX)
    choice = select_backend(scene, BackendSource.parse("visualizer:kit:streaming_view"))
    assert (choice.backend, choice.visualizer) == (BackendKind.VISUALIZER, 1)
    assert (choice.camera, choice.width, choice.height) == (None, None, None)


TASK_VIEW = Viewpoint(eye=(3.0, 0.0, 2.0), lookat=(0.0, 0.0, 0.5), env_index=1)
STAGE = SceneDescription(
    physics=Physics.NEWTON,
    viewer=TASK_VIEW,
    resolution=(640, 360),
    env_origins=((0.0, 0.0, 0.0), (10.0, -4.0, 1.0)),
    assets={"robot": ("base", "hand"), "cube": ("cube",)},
)
VISUALIZER_VIEW = Viewpoint(eye=(4.0, -4.0, 3.0), lookat=(1.0, 0.0, 0.0), fov=65.0)


def camera_of(scene: SceneDescription, source: str = "visualizer") -> tuple[CameraKind, Camera, str]:
    choice = select_backend(scene, BackendSource.parse(source))
    assert choice.camera is not None
    return choice.camera.kind, choice.camera.camera, choice.camera.reason


def viewed_from(**parts: Any) -> SceneDescription:
    return replace(STAGE, viewer=replace(TASK_VIEW, **parts))


def test_the_newton_visualizers_camera_is_followed() -> None:
    scene = replace(STAGE, visualizers=(VisualizerDescription(type="newton_gl", viewpoint=VISUALIZER_VIEW),))
    kind, camera, reason = camera_of(scene)
    assert kind is CameraKind.VISUALIZER
    assert camera == Camera(eye=(4.0, -4.0, 3.0), lookat=(1.0, 0.0, 0.0), fov=65.0)
    assert reason == "the view of the newton_gl visualizer, followed"


def test_the_camera_is_that_of_the_visualizer_which_selected_the_backend() -> None:
    views = {"newton_gl": VISUALIZER_VIEW, "kit": replace(VISUALIZER_VIEW, eye=(9.0, 9.0, 9.0))}
    both = tuple(VisualizerDescription(type=name, viewpoint=view) for name, view in views.items())
    scene = replace(STAGE, visualizers=both)
    assert camera_of(scene)[:2] == (CameraKind.FIXED, Camera(eye=(9.0, 9.0, 9.0), lookat=(1.0, 0.0, 0.0), fov=65.0))
    assert camera_of(scene, "visualizer:newton")[1].eye == (4.0, -4.0, 3.0)
    assert camera_of(scene, "renderer")[1].eye == TASK_VIEW.eye, "visualizers are not looked at"


def test_a_kit_visualizer_may_follow_an_asset() -> None:
    view = replace(VISUALIZER_VIEW, origin_type=OriginType.ASSET_ROOT, asset_name="cube")
    scene = replace(STAGE, visualizers=(VisualizerDescription(type="kit", viewpoint=view),))
    assert camera_of(scene)[0] is CameraKind.ASSET


def test_a_task_view_of_the_world_is_taken_as_it_stands() -> None:
    kind, camera, reason = camera_of(STAGE)
    assert (kind, camera) == (CameraKind.FIXED, Camera(eye=(3.0, 0.0, 2.0), lookat=(0.0, 0.0, 0.5)))
    assert reason == "the task's ViewerCfg"


def test_a_task_view_of_an_environment_is_relative_to_its_origin() -> None:
    kind, camera, reason = camera_of(viewed_from(origin_type=OriginType.ENV))
    assert (kind, camera) == (CameraKind.FIXED, Camera(eye=(13.0, -4.0, 3.0), lookat=(10.0, -4.0, 1.5)))
    assert reason == "the task's ViewerCfg, at environment 1"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"origin_type": OriginType.ASSET_ROOT, "asset_name": "robot"}, "with robot of environment 1"),
        (
            {"origin_type": OriginType.ASSET_BODY, "asset_name": "robot", "body_name": "hand"},
            "with robot/hand of environment 1",
        ),
    ],
)
def test_a_task_view_of_an_asset_goes_with_it(parts: dict[str, Any], reason: str) -> None:
    kind, camera, told = camera_of(viewed_from(**parts))
    assert (kind, camera) == (CameraKind.ASSET, Camera(eye=(3.0, 0.0, 2.0), lookat=(0.0, 0.0, 0.5)))
    assert told.endswith(reason)


def test_without_any_view_the_default_camera_and_size_are_taken() -> None:
    choice = select_backend(scene_with("newton_physics"), BackendSource())
    assert choice.camera is not None
    assert choice.camera.camera == Camera(eye=(7.5, 7.5, 7.5), lookat=(0.0, 0.0, 0.0))
    assert (choice.width, choice.height) == (1280, 720)


def test_the_size_is_the_tasks() -> None:
    choice = select_backend(STAGE, BackendSource())
    assert (choice.width, choice.height) == (640, 360)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"eye": (0.0, math.nan, 1.0)}, r"eye: got \(0\.0, nan, 1\.0\)"),
        ({"lookat": (3.0, 0.0, 2.0)}, r"lookat: got \(3\.0, 0\.0, 2\.0\), the same point as eye"),
        ({"fov": 0.0}, r"fov: got 0\.0"),
        ({"origin_type": OriginType.ENV, "env_index": 2}, r"env_index: got 2; allowed: 0 to 1"),
        ({"origin_type": OriginType.ENV, "env_index": -1}, r"env_index: got -1; allowed: 0 to 1"),
        ({"origin_type": OriginType.ASSET_ROOT, "asset_name": "robo"}, r"asset_name: got 'robo'; allowed: robot, cube"),
        ({"origin_type": OriginType.ASSET_ROOT}, r"asset_name: got None; allowed: robot, cube"),
        (
            {"origin_type": OriginType.ASSET_BODY, "asset_name": "robot", "body_name": "foot"},
            r"body_name: got 'foot'; allowed for 'robot': base, hand",
        ),
        (
            {"origin_type": OriginType.ASSET_ROOT, "asset_name": "robot", "env_index": 7},
            r"env_index: got 7; allowed: 0 to 1",
        ),
    ],
)
def test_a_view_that_can_not_work_is_refused_with_its_value(parts: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        select_backend(viewed_from(**parts), BackendSource())


def test_a_view_that_is_not_chosen_is_not_checked() -> None:
    broken = replace(STAGE, viewer=replace(TASK_VIEW, eye=(math.nan, 0.0, 0.0)))
    scene = replace(broken, visualizers=(VisualizerDescription(type="newton_gl", viewpoint=VISUALIZER_VIEW),))
    choice: Choice = select_backend(scene, BackendSource())
    assert choice.backend is BackendKind.NEWTON


def test_the_nearest_worlds_are_those_around_the_camera() -> None:
    grid = tuple((4.0 * x, 4.0 * y, 0.0) for x in range(-8, 8) for y in range(-8, 8))
    worlds = nearest_worlds(grid, (0.0, 0.0, 0.0), 9)
    assert worlds == tuple(sorted(worlds))
    assert {grid[world][:2] for world in worlds} == {(4.0 * x, 4.0 * y) for x in (-1, 0, 1) for y in (-1, 0, 1)}
    assert nearest_worlds(grid[:3], (0.0, 0.0, 0.0), 16) == (0, 1, 2)
