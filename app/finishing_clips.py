"""Clips of a killed run that `recover` repaired -> whole clips, where their snapshots can be drawn here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .clip import Clip, ClipState
from .errors import BackendError, ConfigurationError, EncodeError, OutputError
from .rendering import Progress, RenderedClip, clips_to_render, finish_clip, render_clip
from .storage.manifest import read_manifest
from .storage.recovery import Recovery, RepairedClip


def finish_clips(recovery: Recovery, *, progress: Progress | None = None) -> Recovery:
    """Draw what the clips of a folder lack and have snapshots of. Blocks, on this thread, which the drawing belongs to.

    The snapshots of a clip that was cut short are removed once it has every frame that they show. Those of a clip
    whose run closed it with snapshots only, to be drawn later, stay: they are there on purpose. What can't be drawn
    here stays as it is, for `stepreel render` elsewhere.

    Args:
        recovery: What `recover` found and did in the folder.
        progress: Hears how far each clip is.

    Returns:
        The same, with the clips that were drawn among those repaired, and a line for each that was not.
    """
    if recovery.is_recording:
        return recovery
    folder = recovery.folder
    repaired = {one.clip.name: one for one in recovery.repaired}
    sound_count, undrawn = recovery.sound_count, list(recovery.undrawn)
    for before in _unfinished(folder):
        name = before.name
        if not before.missing_steps and name not in repaired:
            continue
        keeps_snapshots = before.state is ClipState.UNRENDERED and name not in repaired and not before.ended
        finish = render_clip if keeps_snapshots else finish_clip
        try:
            rendered = finish(folder, name, progress=progress)
        except (BackendError, ConfigurationError, EncodeError, OutputError) as exc:
            undrawn.append(f"{name}: its snapshots can't be drawn here: {exc}; {_elsewhere(folder)}")
            continue
        undrawn += [f"{name}: {failure}; {_elsewhere(folder)}" for failure in rendered.failures]
        if rendered.left and (rendered.drawn or name in repaired):
            undrawn.append(
                f"{name}: {rendered.left} snapshots are of steps between frames of a closed segment, where no room "
                "is: stepreel render with another size and --save-as draws a clip of its own from all of them"
            )
        if rendered.clip != before:
            sound_count -= name not in repaired
            earlier = repaired[name].actions if name in repaired else ()
            actions = (*earlier, *_actions(before, rendered))
            repaired[name] = RepairedClip(clip=rendered.clip, actions=actions)
    return replace(recovery, repaired=tuple(repaired.values()), sound_count=sound_count, undrawn=tuple(undrawn))


def _unfinished(folder: Path) -> Iterator[Clip]:
    """Yield the clips that have snapshots, and were closed or repaired."""
    try:
        names = clips_to_render(folder)
    except OutputError:
        return  # `recover` has said so.
    for name in names:
        try:
            clip = read_manifest(folder / f"{name}.json")
        except OutputError:
            continue
        if clip.state is not ClipState.RECORDING and clip.snapshots:
            yield clip


def _actions(before: Clip, rendered: RenderedClip) -> Iterator[str]:
    if rendered.drawn:
        yield f"frames drawn from its snapshots: {rendered.drawn}"
    if before.snapshots and not rendered.clip.snapshots:
        yield f"{before.snapshots.file} removed: nothing in it is missing"
    if rendered.clip.state is not before.state:
        yield f"state: {before.state} -> {rendered.clip.state}"


def _elsewhere(folder: Path) -> str:
    return f"they stay: run stepreel render {folder} where they can be, on a copy of the folder"
