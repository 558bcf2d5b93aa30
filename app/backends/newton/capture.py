"""Copies the rows of a `newton.State` that a picture needs into a slot, on the training thread."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...clip import Snapshot
from ...errors import CaptureError, SourceChangedError
from ...interfaces import PendingSnapshot
from .render_scene import Floats, Selection

_STATES_REMEMBERED = 8

Range = tuple[int, int, int]
"""Rows that lie together: the first in the snapshot, the first in the state, how many."""


class HostSource:
    """Copies from a CPU model's state, whose arrays numpy can look at."""

    def __init__(self, model: Any, selection: Selection) -> None:
        self._body_count = int(model.body_count)
        self._particle_count = int(model.particle_count)
        self._bodies = _ranges(selection.bodies)
        self._particles = _ranges(selection.particles)
        self._body_nbytes = 28 * len(selection.bodies)
        self.nbytes = self._body_nbytes + 12 * len(selection.particles)
        self._views: dict[int, tuple[Any, Floats]] = {}

    def check(self, state: Any) -> None:
        """Raise `CaptureError` where there is no state, `SourceChangedError` where it is of another model."""
        _check_state(state, self._body_count, self._particle_count)

    def capture(self, state: Any, target: NDArray[np.uint8]) -> Snapshot:
        """Copy into the first `nbytes` of `target`, all of which is the snapshot; raises as `check` does."""
        self.check(state)
        if self._bodies:
            rows = target[: self._body_nbytes].view(np.float32).reshape(-1, 7)
            _copy_rows(rows, self._view(state.body_q), self._bodies)
        if self._particles:
            rows = target[self._body_nbytes : self.nbytes].view(np.float32).reshape(-1, 3)
            _copy_rows(rows, self._view(state.particle_q), self._particles)
        return Snapshot(nbytes=target.nbytes)

    def _view(self, array: Any) -> Floats:
        """Return an array's memory as numpy sees it; the views of the states that swap are kept."""
        known = self._views.get(id(array))
        if known is not None:
            return known[1]
        if len(self._views) >= _STATES_REMEMBERED:
            self._views.clear()
        view: Floats = array.numpy()
        # The array is kept with its view, so that its id can't go to another one meanwhile.
        self._views[id(array)] = array, view
        return view


class DeviceSource:
    """Copies from a CUDA model's state through pinned memory, without waiting for the device."""

    def __init__(self, model: Any, selection: Selection) -> None:
        self._device = model.device
        self._body_count = int(model.body_count)
        self._particle_count = int(model.particle_count)
        self._selection = selection
        self._bodies = _ranges(selection.bodies)
        self._particles = _ranges(selection.particles)
        self.nbytes = 28 * len(selection.bodies) + 12 * len(selection.particles)
        self._stagings = [self._new_staging() for _ in range(2)]

    def check(self, state: Any) -> None:
        """Raise `CaptureError` where there is no state, `SourceChangedError` where it is of another model."""
        _check_state(state, self._body_count, self._particle_count)

    def capture(self, state: Any, target: NDArray[np.uint8]) -> PendingSnapshot:
        """Queue the copy into the first `nbytes` of `target`, all of which is the snapshot; raises as `check` does."""
        import warp as wp

        self.check(state)
        staging = self._idle_staging()
        stream = wp.get_stream(self._device)
        for first, source, count in self._bodies:
            wp.copy(staging.bodies, state.body_q, first, source, count, stream)
        for first, source, count in self._particles:
            wp.copy(staging.particles, state.particle_q, first, source, count, stream)
        stream.record_event(staging.event)
        return staging.lend(target)

    def _idle_staging(self) -> _Staging:
        for staging in self._stagings:
            if staging.is_idle():
                return staging
        self._stagings.append(self._new_staging())
        return self._stagings[-1]

    def _new_staging(self) -> _Staging:
        return _Staging(self._device, len(self._selection.bodies), len(self._selection.particles))


class _Staging:
    """Pinned memory for one snapshot on its way, and the event that tells when it has come."""

    def __init__(self, device: Any, body_count: int, particle_count: int) -> None:
        import warp as wp

        self.bodies = wp.empty(body_count, dtype=wp.transformf, device="cpu", pinned=True)
        self.particles = wp.empty(particle_count, dtype=wp.vec3f, device="cpu", pinned=True)
        self.event = wp.Event(device)
        self._bytes = [
            array.numpy().reshape(-1).view(np.uint8) for array in (self.bodies, self.particles) if array.size
        ]
        self._lent: weakref.ref[_DeviceSnapshot] | None = None

    def lend(self, target: NDArray[np.uint8]) -> _DeviceSnapshot:
        snapshot = _DeviceSnapshot(self, target)
        self._lent = weakref.ref(snapshot)
        return snapshot

    def is_idle(self) -> bool:
        """Return whether it may be filled again: its snapshot is whole, and the device no longer writes to it."""
        lent = self._lent() if self._lent is not None else None
        return (lent is None or lent.is_whole) and bool(self.event.is_complete)

    def copy_to(self, target: NDArray[np.uint8]) -> None:
        start = 0
        for part in self._bytes:
            target[start : start + part.nbytes] = part
            start += part.nbytes


class _DeviceSnapshot:
    """A snapshot on its way from the device; see `stepreel.interfaces.PendingSnapshot`."""

    def __init__(self, staging: _Staging, target: NDArray[np.uint8]) -> None:
        self._staging = staging
        self._target = target
        self.is_whole = False

    def poll(self) -> Snapshot | None:
        return self._finish() if self.is_whole or self._staging.event.is_complete else None

    def wait(self) -> Snapshot:
        import warp as wp

        if not self.is_whole:
            wp.synchronize_event(self._staging.event)
        return self._finish()

    def _finish(self) -> Snapshot:
        if not self.is_whole:
            self._staging.copy_to(self._target)
            self.is_whole = True
        return Snapshot(nbytes=self._target.nbytes)


def open_source(model: Any, selection: Selection) -> HostSource | DeviceSource:
    """Return the source that copies the selected rows of states of `model`."""
    return DeviceSource(model, selection) if model.device.is_cuda else HostSource(model, selection)


def _check_state(state: Any, body_count: int, particle_count: int) -> None:
    for name, expected in (("body_q", body_count), ("particle_q", particle_count)):
        try:
            array = getattr(state, name)
        except AttributeError:
            raise CaptureError(
                f"get_state returned {type(state).__name__}, which has no {name}; return the current newton.State"
            ) from None
        found = 0 if array is None else len(array)
        if found != expected:
            raise SourceChangedError(
                f"state.{name} has {found} rows, the model {expected}; return a state of the model that is recorded, "
                "or give the backend a function that returns the model of now"
            )


def _copy_rows(target: Floats, source: Floats, ranges: Sequence[Range]) -> None:
    for first, start, count in ranges:
        target[first : first + count] = source[start : start + count]


def _ranges(rows: NDArray[np.int64]) -> tuple[Range, ...]:
    """Return ascending row numbers as ranges of neighbours."""
    if not len(rows):
        return ()
    firsts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
    counts = np.diff(firsts, append=len(rows))
    return tuple((int(first), int(rows[first]), int(count)) for first, count in zip(firsts, counts, strict=True))
