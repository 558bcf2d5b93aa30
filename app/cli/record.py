"""`stepreel record`: clips of any Gymnasium environment, driven by random or zero actions."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import Recorder, RecorderConfig
from ..errors import BackendError
from .clip_table import clip_table, dropped_by_cause
from .config_options import config_options

if TYPE_CHECKING:
    import gymnasium

    Env = gymnasium.Env[Any, Any]

_PIPE_WIDTH = 200
"""Columns of the table where nobody says how wide the screen is: paths should stay in one piece."""

_INTERRUPTED = 130
"""Exit status of a program that was ended by SIGINT, as shells count."""


def _key_value(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """Parse `key=value` arguments; a value is a Python literal, or else the string itself."""
    parsed: dict[str, Any] = {}
    for argument in given:
        key, equals, value = argument.partition("=")
        if not equals or not key.isidentifier():
            raise click.BadParameter(f"{argument!r} is not of the form key=value", ctx, param)
        try:
            parsed[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[key] = value
    return parsed


@click.command()
@click.argument("env_id")
@click.option("--steps", type=click.IntRange(min=1), default=1000, show_default=True, help="Steps to take.")
@click.option(
    "--actions",
    type=click.Choice(["random", "zero"]),
    default="random",
    show_default=True,
    help="Sampled from the action space, or zero (the lowest allowed, where zero is not).",
)
@click.option("--seed", type=int, help="Seed of the environment and of the actions.")
@click.option(
    "--env-arg",
    "env_arguments",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_key_value,
    help="An argument of the environment, such as xml_file=walker.xml; can be given more than once.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "render", "mujoco"]),
    default="auto",
    show_default=True,
    help="mujoco: snapshots of a MuJoCo environment, drawn by the worker. render: what env.render() draws. auto: "
    "snapshots where they show the same.",
)
@config_options(output_dir="videos")
def record(
    env_id: str,
    *,
    steps: int,
    actions: str,
    seed: int | None,
    env_arguments: dict[str, Any],
    backend: str,
    **settings: Any,
) -> None:
    """Record clips of the Gymnasium environment ENV_ID, such as CartPole-v1 or module:MyEnv-v0.

    An interrupt (Ctrl-C) ends the run early; what was captured is finished first.
    """
    from ..backends.gymnasium import choose_backend

    config = RecorderConfig(**settings)
    with closing(_make(env_id, env_arguments)) as env:
        next_action = _zero_actions(env) if actions == "zero" else _random_actions(env, seed)
        interrupted = False
        with Recorder(config, choose_backend(env, backend=backend)) as recorder, _progress() as progress:
            rollout = _rollout(env, recorder, next_action, steps, seed)
            try:
                for _ in progress.track(rollout, total=steps, description="Recording"):
                    pass
            except KeyboardInterrupt:
                interrupted = True
    _print_summary(recorder, config)
    if interrupted:
        raise click.exceptions.Exit(_INTERRUPTED)


def _make(env_id: str, env_arguments: dict[str, Any]) -> Env:
    import gymnasium

    try:
        return gymnasium.make(env_id, **{"render_mode": "rgb_array", **env_arguments})
    except Exception as exc:  # Whatever somebody's constructor raises.
        raise BackendError(f"gymnasium.make({env_id!r}) failed: {type(exc).__name__}: {exc}") from exc


def _random_actions(env: Env, seed: int | None) -> Callable[[], Any]:
    env.action_space.seed(seed)
    return env.action_space.sample


def _zero_actions(env: Env) -> Callable[[], Any]:
    from gymnasium.wrappers.utils import create_zero_array

    zero = create_zero_array(env.action_space)
    return lambda: zero


def _rollout(
    env: Env, recorder: Recorder, next_action: Callable[[], Any], steps: int, seed: int | None
) -> Iterator[None]:
    """Take `steps` steps, over as many episodes as it takes; yields after each."""
    env.reset(seed=seed)
    recorder.reset()
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(next_action())
        recorder.step()
        if terminated or truncated:
            env.reset()
            recorder.reset()
        yield


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _print_summary(recorder: Recorder, config: RecorderConfig) -> None:
    summary = recorder.summary()
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    if not summary.clips:
        console.print("No clip was due: see --video-interval and --step-offset.")
        return
    console.print(clip_table(summary.clips, config.output_path))
    frames = summary.frames
    console.print(f"{frames.requested} frames asked for, {frames.encoded} encoded, {dropped_by_cause(frames)} dropped")
