"""A worker that a test plays: it follows the protocol, and encodes nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stepreel.clip import DropCause, Segment
from stepreel.encoders import protocol

PART = ".part"


class PlayedDisk:
    """The segments in a folder, and which steps each of them shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: dict[str, list[int]] = {}

    def append(self, file: str, step: int) -> None:
        if file not in self.steps:
            (self.folder / file).touch()
        self.steps.setdefault(file, []).append(step)

    def finish(self, file: str, final: str, frames: int) -> Segment:
        """Give an open segment its final name, with its first frames."""
        steps = self.steps.pop(file)[:frames]
        (self.folder / file).rename(self.folder / final)
        self.steps[final] = steps
        return self.segment(final)

    def segment(self, file: str) -> Segment:
        steps = self.steps[file]
        return Segment(file=file, first_step=steps[0], last_step=steps[-1], frames=len(steps), nbytes=1, duration_s=1.0)

    def remove(self, file: str) -> None:
        if self.steps.pop(file, None):
            (self.folder / file).unlink(missing_ok=True)


@dataclass
class _Clip:
    begin: protocol.BeginClip
    index: int
    last_step: int = -(2**40)
    part: str = ""
    held: list[int] = field(default_factory=list)
    failure: DropCause | None = None

    def open_name(self) -> str:
        return f"{self.begin.name}.{self.index:03d}.mp4"


class PlayedWorker:
    """Performs commands in their order; each returns what a worker would reply.

    Attributes:
        commands: What it has heard and not done.
        replies: What it has said, and nobody has heard.
    """

    def __init__(self, disk: PlayedDisk) -> None:
        self.commands: deque[protocol.Command] = deque()
        self.replies: deque[protocol.Reply] = deque()
        self._disk = disk
        self._clips: dict[int, _Clip] = {}

    def perform(self, *, cause: DropCause | None = None, splits: bool = False, kept: int = 1000) -> None:
        """Perform the next command.

        Args:
            cause: Why a frame can't be drawn, or a segment not be written.
            splits: A segment is closed before the frame.
            kept: Frames at the beginning of a lost segment that can be read.
        """
        command = self.commands.popleft()
        match command:
            case protocol.OpenStream():
                if command.payload:
                    self.replies.append(protocol.StreamOpened(stream=command.stream, renderer="played", open_s=0.0))
            case protocol.BeginClip():
                assert command.clip not in self._clips, "a clip began twice"
                self._clips[command.clip] = clip = _Clip(command, command.first_index)
                self._disk.remove(clip.open_name() + PART)
            case protocol.EncodeFrame():
                self.replies += self._encode(command, cause, splits, kept)
            case protocol.EndClip():
                self.replies += self._end(command, kept)
            case protocol.Remux():
                self.replies += self._close_lost(command, DropCause.WORKER_LOST, kept)

    def close(self) -> None:
        """Close what is open, as a worker does that lost its service; nobody hears of it."""
        for clip in self._clips.values():
            if clip.part:
                self._close_part(clip, is_last=True)

    def _encode(
        self, command: protocol.EncodeFrame, cause: DropCause | None, splits: bool, kept: int
    ) -> Iterator[protocol.Reply]:
        clip = self._clips[command.clip]
        assert command.step > clip.last_step, "a frame came out of order, or twice"
        clip.last_step = command.step
        cause = clip.failure or cause
        if cause is DropCause.DISK_FULL and not clip.failure and not clip.begin.ring_s:
            clip.failure = cause
            if clip.part:
                part, clip.part = clip.part, ""
                remux = protocol.Remux(clip=command.clip, part=part, final=part.removesuffix(PART))
                yield from self._close_lost(remux, cause, kept)
        if cause is None and clip.begin.ring_s:
            clip.held.append(command.step)
        elif cause is None:
            yield from self._write(clip, command.step, splits)
        yield protocol.FrameDone(
            clip=command.clip, step=command.step, cause=cause, message="", render_s=0.0, encode_s=0.001, cpu_s=0.001
        )

    def _write(self, clip: _Clip, step: int, splits: bool) -> Iterator[protocol.Reply]:
        if clip.part and splits:
            yield self._close_part(clip, is_last=False)
        is_new = not clip.part
        clip.part = clip.open_name() + PART
        self._disk.append(clip.part, step)
        if is_new:
            yield protocol.SegmentOpened(
                clip=clip.begin.clip, file=clip.part, width=64, height=48, codec="libx264", padded=False
            )

    def _end(self, command: protocol.EndClip, kept: int) -> Iterator[protocol.Reply]:
        clip = self._clips.pop(command.clip)
        if clip.begin.ring_s and command.saved_as:
            yield from self._save(command, clip.held[-kept:])
        elif clip.part:
            yield self._close_part(clip, is_last=True)
        yield protocol.ClipDone(clip=command.clip)

    def _save(self, command: protocol.EndClip, steps: list[int]) -> Iterator[protocol.Reply]:
        yield protocol.RingSaved(
            clip=command.clip, steps=steps, width=64, height=48, codec="libx264", cause=None, message=""
        )
        if steps:
            file = f"{command.saved_as}.mp4"
            for step in steps:
                self._disk.append(file, step)
            yield protocol.SegmentClosed(clip=command.clip, segment=self._disk.segment(file))

    def _close_part(self, clip: _Clip, *, is_last: bool) -> protocol.SegmentClosed:
        part, clip.part = clip.part, ""
        is_alone = is_last and clip.index == 0
        final = f"{clip.begin.name}.mp4" if is_alone else part.removesuffix(PART)
        clip.index += 1
        segment = self._disk.finish(part, final, len(self._disk.steps[part]))
        return protocol.SegmentClosed(clip=clip.begin.clip, segment=segment)

    def _close_lost(self, command: protocol.Remux, cause: DropCause, kept: int) -> Iterator[protocol.Reply]:
        disk, part = self._disk, command.part
        renamed = (part.removesuffix(PART), part[: -len(".000.mp4.part")] + ".mp4")
        found = next((name for name in renamed if part not in disk.steps and name in disk.steps), None)
        if found:
            yield protocol.Remuxed(clip=command.clip, segment=disk.segment(found))
        elif part in disk.steps and kept:
            segment = disk.finish(part, command.final, kept)
            yield protocol.Remuxed(clip=command.clip, segment=segment)
        else:
            disk.remove(part)
        yield protocol.SegmentLost(clip=command.clip, cause=cause, message="", is_kept=False)
