from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepreel.clip import Clip, ClipState, DropCause, FrameCounts
from stepreel.errors import OutputError
from stepreel.storage.folder_lock import LOCK_FILE, FolderLock
from stepreel.storage.inspection import decode_frames, inspect
from stepreel.storage.manifest import read_manifest, reserve_name, write_manifest
from stepreel.storage.recovery import Recovery, recover

from ..interruptions import interrupt_everywhere
from ..recordings import kill_everything
from .leftovers import NAME, SETTINGS, STRIDE, contents, dropped, leave, leave_clip, state_of

MANIFEST = f"{NAME}.json"
STEPS = [STRIDE * pts for pts in range(75)]
"""What is asked for in most tests: two segments of a second, and half of a third."""
KEPT = 18
"""Frames in the complete fragments, of 9 frames each, of an open segment into which 25 were written."""


def manifest_of(folder: Path, name: str = NAME) -> Clip:
    return read_manifest(folder / f"{name}.json")


def steps_of(folder: Path, name: str = NAME) -> list[int]:
    return [step for step, _ in decode_frames(folder / f"{name}.json")]


def recover_twice(folder: Path) -> Recovery:
    """Repair a folder, and check that the books balance, that files are as told, and that once was enough."""
    before = contents(folder)
    planned = recover(folder, dry_run=True)
    assert contents(folder) == before
    recovery = recover(folder)
    assert [one.actions for one in planned.repaired] == [one.actions for one in recovery.repaired]
    assert (planned.removed, planned.sound_count) == (recovery.removed, recovery.sound_count)
    after = contents(folder)
    again = recover(folder)
    assert contents(folder) == after
    assert (again.repaired, again.removed) == ((), ())
    assert again.sound_count == recovery.sound_count + len(recovery.repaired)
    assert LOCK_FILE not in after
    for one in recovery.repaired:
        clip = manifest_of(folder, one.clip.name)
        assert clip == one.clip
        assert clip.state is not ClipState.RECORDING
        assert clip.frames.requested == clip.frames.encoded + clip.frames.dropped_total
    return recovery


def recover_whole(folder: Path) -> Recovery:
    """Do as `recover_twice`, and decode every frame."""
    recovery = recover_twice(folder)
    assert recovery.problems == ()
    assert inspect(folder).differences == ()
    assert not list(folder.glob("*.part"))
    return recovery


def test_a_clip_whose_processes_were_killed_is_closed_up_to_its_last_fragment(tmp_path: Path) -> None:
    left = leave_clip(tmp_path, 75)
    (one,) = recover_whole(tmp_path).repaired
    clip = manifest_of(tmp_path)
    assert clip.state is ClipState.RECOVERED
    assert clip.segments[:2] == left.segments
    assert clip.segments[2].file == f"{NAME}.002.mp4"
    assert clip.open_segment is None
    assert steps_of(tmp_path) == STEPS[: clip.frames.encoded]
    assert len(STEPS) - clip.frames.encoded <= SETTINGS.gop_frames
    assert clip.end_step is None
    assert not one.is_whole


def test_the_only_segment_gets_the_plain_name(tmp_path: Path) -> None:
    leave_clip(tmp_path, 25)
    recover_whole(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [MANIFEST, f"{NAME}.mp4"]


@pytest.mark.parametrize("known", [0, 1, 2])
def test_segments_that_the_manifest_lacks_are_listed(tmp_path: Path, known: int) -> None:
    segments = leave(tmp_path, 75)
    opened = f"{NAME}.{known:03d}.mp4.part"
    write_manifest(tmp_path, state_of(segments=segments[:known], open_segment=opened))
    recover_whole(tmp_path)
    clip = manifest_of(tmp_path)
    assert [segment.file for segment in clip.segments] == [f"{NAME}.{number:03d}.mp4" for number in range(3)]
    assert clip.segments[0] == replace(segments[0], duration_s=clip.segments[0].duration_s)
    assert steps_of(tmp_path) == STEPS[: clip.frames.encoded]


def test_frames_that_are_in_no_file_are_counted_as_lost_with_their_worker(tmp_path: Path) -> None:
    leave_clip(tmp_path, 75)
    (tmp_path / f"{NAME}.001.mp4").unlink()
    write_manifest(tmp_path, replace(manifest_of(tmp_path), segments=manifest_of(tmp_path).segments[:1], end_step=178))
    (one,) = recover_whole(tmp_path).repaired
    clip = one.clip
    assert clip.frames.requested == 90
    assert clip.frames.dropped == {DropCause.WORKER_LOST: 90 - clip.frames.encoded}
    shown = clip.segments[1].last_step
    assert clip.missing_steps == ((60, 118), (shown + STRIDE, 178))
    assert clip.end_step == 178
    assert not one.is_whole


def test_drops_that_were_counted_before_keep_their_cause(tmp_path: Path) -> None:
    segments = leave(tmp_path, 75, missing=(10, 12))
    write_manifest(
        tmp_path,
        state_of(segments=segments, frames=dropped(DropCause.QUEUE_FULL, 2, 58), missing_steps=((10, 12),)),
    )
    recover_whole(tmp_path)
    clip = manifest_of(tmp_path)
    assert clip.frames.dropped == {DropCause.QUEUE_FULL: 2}
    assert clip.missing_steps == ((10, 12),)


def test_steps_that_were_listed_under_a_cause_stay_there_and_the_others_went_with_their_worker(tmp_path: Path) -> None:
    segments = leave(tmp_path, 75, missing=(10, 12, 16))
    by_cause = {DropCause.QUEUE_FULL: ((10, 12),), DropCause.RENDER_FAILED: ((16, 16),)}
    frames = FrameCounts(requested=61, encoded=58, dropped={DropCause.QUEUE_FULL: 2, DropCause.RENDER_FAILED: 1})
    write_manifest(
        tmp_path,
        state_of(
            segments=segments,
            frames=frames,
            missing_steps=((10, 12), (16, 16)),
            missing_by_cause=by_cause,
            end_step=150,
        ),
    )
    recover_whole(tmp_path)
    clip = manifest_of(tmp_path)
    lost = ((clip.segments[-1].last_step + STRIDE, 150),)
    assert clip.missing_by_cause == {**by_cause, DropCause.WORKER_LOST: lost}
    assert inspect(tmp_path).differences == ()


def test_a_clip_of_which_only_the_last_manifest_is_late_is_complete(tmp_path: Path) -> None:
    segments = leave(tmp_path, 61)[:2]
    (tmp_path / f"{NAME}.002.mp4.part").unlink()
    write_manifest(tmp_path, state_of(segments=segments[:1], open_segment=f"{NAME}.001.mp4.part", end_step=118))
    (one,) = recover_whole(tmp_path).repaired
    assert one.clip.state is ClipState.COMPLETE
    assert one.clip.frames.requested == one.clip.frames.encoded == 60
    assert one.is_whole


def test_a_clip_without_a_frame_has_failed(tmp_path: Path) -> None:
    write_manifest(tmp_path, state_of())
    recover_whole(tmp_path)
    assert manifest_of(tmp_path).state is ClipState.FAILED


def test_what_a_full_disk_kept_from_being_repaired_is_repaired_later(tmp_path: Path) -> None:
    leave(tmp_path, 25)
    part = f"{NAME}.000.mp4.part"
    lost = state_of(
        state=ClipState.FAILED,
        end_step=58,
        frames=dropped(DropCause.DISK_FULL, 30, 0),
        missing_steps=((0, 58),),
        open_segment=part,
    )
    write_manifest(tmp_path, lost)
    (one,) = recover_whole(tmp_path).repaired
    assert one.clip.state is ClipState.RECOVERED
    assert one.clip.frames.encoded == KEPT
    assert one.clip.frames.dropped == {DropCause.DISK_FULL: 30 - KEPT}
    assert one.clip.missing_steps == ((KEPT * STRIDE, 58),)
    assert steps_of(tmp_path) == STEPS[:KEPT]


def test_a_disk_that_is_still_full_is_a_problem_until_there_is_room(tmp_path: Path) -> None:
    leave_clip(tmp_path, 25)
    before = contents(tmp_path)
    script = (
        "import resource, signal, sys; from pathlib import Path; from stepreel.storage.recovery import recover\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "print(*recover(Path(sys.argv[1])).problems)"
    )
    run = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert "make room on the disk" in run.stdout
    assert contents(tmp_path) == before
    recover_whole(tmp_path)
    assert steps_of(tmp_path) == STEPS[:KEPT]


def test_several_clips_and_ranks_are_repaired_and_whole_ones_left_alone(tmp_path: Path) -> None:
    for rank in range(3):
        leave_clip(tmp_path, 25, f"run-rank{rank}-step-0")
    leave_clip(tmp_path, 45, "run-rank1-step-0.001")
    segments = leave(tmp_path, 61, name="whole")[:2]
    (tmp_path / "whole.002.mp4.part").unlink()
    whole = state_of(
        "whole",
        state=ClipState.COMPLETE,
        end_step=118,
        segments=segments,
        frames=dropped(DropCause.CLOSED, 0, 60),
    )
    write_manifest(tmp_path, whole)
    stamp = (tmp_path / "whole.json").stat().st_mtime_ns
    recovery = recover_whole(tmp_path)
    assert sorted(one.clip.name for one in recovery.repaired) == [
        "run-rank0-step-0",
        "run-rank1-step-0",
        "run-rank1-step-0.001",
        "run-rank2-step-0",
    ]
    assert recovery.sound_count == 1
    assert (tmp_path / "whole.json").stat().st_mtime_ns == stamp


def test_a_clip_without_a_manifest_is_no_segment_of_one_whose_name_begins_alike(tmp_path: Path) -> None:
    leave_clip(tmp_path, 25)
    leave(tmp_path, 25, name=f"{NAME}.001")
    (tmp_path / f"{NAME}.001.000.mp4.part").rename(tmp_path / f"{NAME}.001.mp4.part")
    recovery = recover_whole(tmp_path)
    assert sorted(one.clip.name for one in recovery.repaired) == [NAME, f"{NAME}.001"]
    assert sorted(os.listdir(tmp_path)) == [f"{NAME}.001.json", f"{NAME}.001.mp4", f"{NAME}.json", f"{NAME}.mp4"]


def test_a_draft_that_was_whole_takes_the_place_of_its_manifest(tmp_path: Path) -> None:
    left = leave_clip(tmp_path, 61)
    (tmp_path / f"{NAME}.002.mp4.part").unlink()
    final = replace(
        left, state=ClipState.COMPLETE, end_step=118, open_segment=None, frames=dropped(DropCause.CLOSED, 0, 60)
    )
    recording = (tmp_path / MANIFEST).read_bytes()
    write_manifest(tmp_path, final)
    (tmp_path / MANIFEST).rename(tmp_path / f"{MANIFEST}.part")
    (tmp_path / MANIFEST).write_bytes(recording)
    recover_whole(tmp_path)
    assert manifest_of(tmp_path) == replace(final, frames=replace(final.frames, dropped={}))


@pytest.mark.parametrize("data", [b"", b'{"schema": 1, "cl', b"\0" * 4096])
def test_a_half_written_draft_is_removed(tmp_path: Path, data: bytes) -> None:
    leave_clip(tmp_path, 25)
    recover(tmp_path)
    (tmp_path / f"{MANIFEST}.part").write_bytes(data)
    recovery = recover_whole(tmp_path)
    assert recovery.removed == (f"{MANIFEST}.part",)


@pytest.mark.parametrize("data", [b"", b"\0" * 512])
def test_a_clip_whose_manifest_was_only_reserved_is_told_by_its_segments(tmp_path: Path, data: bytes) -> None:
    leave(tmp_path, 75)
    (tmp_path / MANIFEST).write_bytes(data)
    recover_whole(tmp_path)
    clip = manifest_of(tmp_path)
    assert (clip.start_step, clip.frame_stride, clip.fps, clip.width) == (0, STRIDE, 30.0, 64)
    assert len(clip.segments) == 3


def test_segments_without_any_manifest_get_one(tmp_path: Path) -> None:
    leave(tmp_path, 75)
    recover_whole(tmp_path)
    assert manifest_of(tmp_path).state is ClipState.RECOVERED


def test_a_name_that_was_only_reserved_is_free_again(tmp_path: Path) -> None:
    (tmp_path / "session.json").write_text('{"configuration": {"name_prefix": "run"}}')
    name = reserve_name(tmp_path, NAME)
    named = reserve_name(tmp_path, "run-by-hand")
    reserve_name(tmp_path, "other-rank-episode-7-2")
    for theirs in ("notes.json", "notes.json.part", "other.json.part"):
        (tmp_path / theirs).touch()
    recovery = recover_twice(tmp_path)
    assert recovery.removed == ("other-rank-episode-7-2.json", f"{named}.json", f"{name}.json")
    assert sorted(os.listdir(tmp_path)) == ["notes.json", "notes.json.part", "other.json.part", "session.json"]


def test_a_name_that_any_rank_reserved_is_free_again(tmp_path: Path) -> None:
    for rank in range(2):
        session = tmp_path / f"session-rank{rank}.json"
        session.write_text(json.dumps({"configuration": {"name_prefix": f"run-rank{rank}"}}))
    names = [reserve_name(tmp_path, f"run-rank{rank}-by-hand") for rank in range(3)]
    assert recover_twice(tmp_path).removed == tuple(f"{name}.json" for name in names[:2])


def test_what_a_killed_recorder_leaves_of_other_files_is_removed(tmp_path: Path) -> None:
    drafts = [f"session{kind}.json.part" for kind in ("-pace", "-rank2-pace", "-rank2", "")]
    left = [".stepreel-456", ".stepreel-456.part", ".stepreel-a_b3", *drafts]
    for name in (*left, ".stepreel.lock", ".mine", "sessions.json.parts"):
        (tmp_path / name).touch()
    assert recover_whole(tmp_path).removed == tuple(left)
    assert sorted(os.listdir(tmp_path)) == [".mine", "sessions.json.parts"]


@pytest.mark.parametrize("nbytes", [0, 20, 36, 44, 88, 200, 1040, 1060])
def test_an_open_segment_without_a_frame_is_removed(tmp_path: Path, nbytes: int) -> None:
    leave_clip(tmp_path, 25)
    part = tmp_path / f"{NAME}.000.mp4.part"
    part.write_bytes(part.read_bytes()[:nbytes])
    recover_whole(tmp_path)
    assert os.listdir(tmp_path) == [MANIFEST]
    assert manifest_of(tmp_path).state is ClipState.FAILED


def test_a_reserved_name_with_an_open_segment_without_a_frame_is_free_again(tmp_path: Path) -> None:
    leave(tmp_path, 5)
    (tmp_path / MANIFEST).touch()
    recover_whole(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("damage", ["no head", "no video"])
def test_an_open_segment_that_can_not_be_read_stays_and_is_told_of_every_time(tmp_path: Path, damage: str) -> None:
    leave_clip(tmp_path, 75)
    leave_clip(tmp_path, 25, "other")
    part = tmp_path / f"{NAME}.002.mp4.part"
    data = part.read_bytes()
    damaged = {"no head": bytes(1500) + data[1500:], "no video": b"not a video" * 50}
    part.write_bytes(damaged[damage])
    recovery = recover_twice(tmp_path)
    (problem,) = recovery.problems
    assert str(part) in problem
    assert recover(tmp_path).problems == recovery.problems
    assert part.read_bytes() == damaged[damage]
    clip = manifest_of(tmp_path)
    assert (clip.state, clip.open_segment, clip.frames.encoded) == (ClipState.RECOVERED, part.name, 60)
    assert len(recovery.repaired) == 2


@pytest.mark.parametrize("final", [f"{NAME}.mp4", f"{NAME}.000.mp4"])
def test_an_open_segment_that_was_repaired_and_not_yet_taken_away_is_taken_away(tmp_path: Path, final: str) -> None:
    leave_clip(tmp_path, 25)
    data = (tmp_path / f"{NAME}.000.mp4.part").read_bytes()
    left = (tmp_path / MANIFEST).read_bytes()
    recover(tmp_path)
    (tmp_path / f"{NAME}.mp4").rename(tmp_path / final)
    (tmp_path / f"{NAME}.000.mp4.part").write_bytes(data)
    (tmp_path / MANIFEST).write_bytes(left)
    recover_whole(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([MANIFEST, final])
    assert steps_of(tmp_path) == STEPS[:KEPT]


def test_an_open_segment_that_holds_more_than_the_closed_one_stays(tmp_path: Path) -> None:
    leave_clip(tmp_path, 28)
    part = tmp_path / f"{NAME}.000.mp4.part"
    data = part.read_bytes()
    part.write_bytes(data[: len(data) * 3 // 4])
    recover(tmp_path)
    part.write_bytes(data)
    recovery = recover_twice(tmp_path)
    assert len(recovery.problems) == 1
    assert part.read_bytes() == data


def test_a_clip_of_which_a_listed_segment_is_gone_stays_as_it_is_and_the_rest_is_repaired(tmp_path: Path) -> None:
    leave_clip(tmp_path, 75)
    leave_clip(tmp_path, 25, "other")
    (tmp_path / f"{NAME}.000.mp4").unlink()
    before = contents(tmp_path)
    recovery = recover_twice(tmp_path)
    assert [one.clip.name for one in recovery.repaired] == ["other"]
    assert f"{NAME}.000.mp4" in recovery.problems[0]
    assert {name: data for name, data in contents(tmp_path).items() if name.startswith(NAME)} == {
        name: data for name, data in before.items() if name.startswith(NAME)
    }


def test_a_manifest_that_is_none_is_a_problem_only_where_it_has_segments(tmp_path: Path) -> None:
    leave_clip(tmp_path, 25)
    (tmp_path / MANIFEST).write_text('{"mine": 1}')
    (tmp_path / "notes.json").write_text("{}")
    before = contents(tmp_path)
    recovery = recover(tmp_path)
    assert len(recovery.problems) == 1
    assert "is not the manifest of a clip" in recovery.problems[0]
    assert contents(tmp_path) == before


def test_segments_of_another_clip_are_not_taken_in(tmp_path: Path) -> None:
    leave_clip(tmp_path, 25)
    leave(tmp_path, 45, name="other")
    foreign = (tmp_path / "other.000.mp4").rename(tmp_path / f"{NAME}.004.mp4")
    (tmp_path / "other.001.mp4.part").unlink()
    data = foreign.read_bytes()
    recovery = recover_twice(tmp_path)
    assert "it belongs to other" in recovery.problems[0]
    assert foreign.read_bytes() == data
    assert [segment.frames for segment in manifest_of(tmp_path).segments] == [KEPT]


HOLDER = """
import os, sys
from pathlib import Path
from stepreel.storage.folder_lock import FolderLock

lock = FolderLock.share(Path(sys.argv[1]))
if "fork" in sys.argv and os.fork() == 0:
    os.read(0, 1)
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
"""


def hold(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder), *arguments]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_folder_that_is_recorded_into_is_left_alone_until_its_recorder_is_killed(
    tmp_path: Path, dry_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepreel.storage.recovery._ORPHAN_S", 0.2)
    leave_clip(tmp_path, 25)
    with hold(tmp_path) as first, hold(tmp_path) as second:
        before = contents(tmp_path)
        for holder in (first, second):
            assert recover(tmp_path, dry_run=dry_run).is_recording
            assert contents(tmp_path) == before
            holder.kill()
            holder.wait()
        assert not recover(tmp_path, dry_run=dry_run).is_recording
    recover_whole(tmp_path)


def test_a_data_loader_that_outlives_its_training_is_no_recorder(tmp_path: Path) -> None:
    leave_clip(tmp_path, 25)
    with hold(tmp_path, "fork") as holder:
        holder.kill()
        holder.wait()
        recover_whole(tmp_path)


@pytest.mark.parametrize("kept", [0, 20, 500])
def test_a_segment_of_which_a_power_cut_left_only_the_length_is_removed(tmp_path: Path, kept: int) -> None:
    clip = leave_clip(tmp_path, 25)
    assert clip.open_segment
    part = tmp_path / clip.open_segment
    data = part.read_bytes()
    part.write_bytes(data[:kept] + bytes(len(data) - kept))
    recovery = recover_whole(tmp_path)
    assert not part.exists()
    assert recovery.problems == ()


def test_a_segment_that_is_damaged_is_left_as_it_is(tmp_path: Path) -> None:
    clip = leave_clip(tmp_path, 25)
    assert clip.open_segment
    part = tmp_path / clip.open_segment
    part.write_bytes(b"damage" * 1000)
    assert recover(tmp_path).problems
    assert part.read_bytes() == b"damage" * 1000


def test_a_lock_that_is_let_go_leaves_nothing_behind(tmp_path: Path) -> None:
    locks = [FolderLock.share(tmp_path) for _ in range(3)]
    for lock in locks:
        assert os.listdir(tmp_path) == [LOCK_FILE]
        lock.release()
        lock.release()
    assert os.listdir(tmp_path) == []


def test_letting_go_that_is_interrupted_anywhere_leaves_nothing_behind_the_second_time(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for lock in interrupt_everywhere(lambda: FolderLock.share(tmp_path), FolderLock.release):
        lock.release()
        assert os.listdir(tmp_path) == []
        assert os.listdir("/proc/self/fd") == before


def test_without_locks_a_folder_that_changed_lately_counts_as_recorded_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", unsupported)
    lock = FolderLock.share(tmp_path)
    assert not lock.is_held
    lock.release()
    leave_clip(tmp_path, 25)
    before = contents(tmp_path)
    assert recover(tmp_path).is_recording
    assert contents(tmp_path) == before
    for path in tmp_path.iterdir():
        os.utime(path, (1e9, 1e9))
    recovery = recover(tmp_path)
    assert len(recovery.repaired) == 1


def test_a_folder_that_is_being_repaired_is_not_recorded_into(tmp_path: Path) -> None:
    lock = FolderLock.claim(tmp_path, timeout_s=0)
    assert lock
    with pytest.raises(OutputError, match="is being repaired"):
        FolderLock.share(tmp_path, timeout_s=0.1)
    lock.release()
    FolderLock.share(tmp_path).release()


def test_links_are_not_followed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "videos", tmp_path / "outside"
    for path in (folder, outside):
        path.mkdir()
        leave_clip(path, 25)
    leave(outside, 25, name="linked")
    (outside / "linked.json").touch()
    (folder / "linked.000.mp4.part").symlink_to(outside / "linked.000.mp4.part")
    (folder / "linked.json").symlink_to(outside / "linked.json")
    (folder / f"{MANIFEST}.part").symlink_to(outside / MANIFEST)
    (folder / f"{NAME}.004.mp4").symlink_to(outside / f"{NAME}.000.mp4.part")
    (folder / ".session.json.5").symlink_to(outside / "linked.json")
    before = contents(outside)
    recovery = recover(folder)
    assert contents(outside) == before
    assert (folder / ".session.json.5").is_symlink()
    assert any("links are not followed" in problem for problem in recovery.problems)
    assert steps_of(folder) == STEPS[:KEPT]
    inspect(folder)


def test_pipes_and_folders_in_the_place_of_files_are_no_crash_and_no_hang(tmp_path: Path) -> None:
    leave_clip(tmp_path, 25)
    os.mkfifo(tmp_path / "pipe.json")
    os.mkfifo(tmp_path / "pipe.000.mp4.part")
    os.mkfifo(tmp_path / f"{NAME}.003.mp4.part")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / f"{MANIFEST}.part").mkdir()
    recovery = recover(tmp_path)
    inspect(tmp_path)
    assert recovery.problems


@settings(max_examples=40, deadline=None)
@given(
    frame_count=st.integers(1, 75),
    known=st.integers(0, 3),
    share=st.floats(0, 1),
    missing=st.sets(st.sampled_from(STEPS), max_size=10),
    booked=st.booleans(),
    is_ended=st.booleans(),
    names_part=st.booleans(),
)
def test_whatever_was_left_adds_up_afterwards(
    tmp_path_factory: pytest.TempPathFactory,
    frame_count: int,
    known: int,
    share: float,
    missing: set[int],
    booked: bool,
    is_ended: bool,
    names_part: bool,
) -> None:
    folder = tmp_path_factory.mktemp("left")
    missing = {step for step in missing if step < frame_count * STRIDE}
    segments = leave(folder, frame_count, missing=missing)[:known]
    for part in folder.glob("*.part"):
        part.write_bytes(part.read_bytes()[: round(share * part.stat().st_size)])
    shown = sum(segment.frames for segment in segments)
    clip = state_of(
        segments=segments,
        open_segment=f"{NAME}.{len(segments):03d}.mp4.part" if names_part else None,
        end_step=(frame_count - 1) * STRIDE if is_ended else None,
    )
    if booked:
        clip = replace(
            clip,
            frames=dropped(DropCause.QUEUE_FULL, len(missing), shown),
            missing_steps=tuple((step, step) for step in sorted(missing)),
        )
    write_manifest(folder, clip)
    recover_whole(folder)
    repaired = manifest_of(folder)
    if is_ended:
        assert repaired.frames.requested == frame_count
    if booked:
        assert repaired.frames.dropped.get(DropCause.QUEUE_FULL, 0) == len(missing)


TRAINING = """
import sys
from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend

config = RecorderConfig(
    output_dir=sys.argv[1], worker_priority="normal", video_length=40, video_interval=40, gop_s=0.2, segment_s=0.5
)
with Recorder(config, SyntheticBackend(width=64, height=64)) as recorder:
    print("ready", flush=True)
    while True:
        recorder.step()
        if recorder.statistics().frames.pending > 50:
            recorder.flush()
        print(recorder.statistics().frames.encoded, flush=True)
"""


@pytest.mark.parametrize("victim", ["training", "both"])
def test_what_a_killed_training_leaves_is_repaired(output_dir: Path, victim: str) -> None:
    import psutil

    chosen = random.Random(victim).randrange(20, 140)
    with subprocess.Popen([sys.executable, "-c", TRAINING, output_dir], stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        while not (line := training.stdout.readline()).strip().isdecimal() or int(line) < chosen:
            assert line
        process = psutil.Process(training.pid)
        children = process.children(recursive=True)
        if victim == "both":
            kill_everything(process)
        else:
            training.kill()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
    recovery = recover_whole(output_dir)
    clips = [read_manifest(path) for path in output_dir.glob("rl-video-*.json")]
    assert sum(clip.frames.encoded for clip in clips) >= chosen - 12
    assert bool(recovery.repaired) is (victim == "both")  # A recording service finishes what training has left.
    assert ClipState.RECORDING not in [clip.state for clip in clips]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a clip with two closed segments, an open one, and its manifest."""
    folder = tmp_path_factory.mktemp("killed")
    leave_clip(folder, 88)
    return contents(folder)


def hostile_folder(factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Path:
    folder = factory.mktemp("hostile") / "videos"
    folder.mkdir()
    (folder.parent / "bystander.json").write_bytes(b"{}")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def look_and_repair(folder: Path) -> None:
    """Inspect and repair a folder in which anything may be: lines, no exception, nothing touched outside."""
    lines: list[str] = []
    for entry in (folder, folder / f"{NAME}.000.mp4", folder / f"{NAME}.002.mp4.part"):
        try:
            inspection = inspect(entry)
        except OutputError as exc:
            lines.append(str(exc))
        else:
            lines += (*inspection.differences, *inspection.notes)
    lines += recover(folder).problems
    assert all(len(line.splitlines()) == 1 for line in lines)
    assert {path.name for path in folder.parent.iterdir()} == {"videos", "bystander.json"}
    assert (folder.parent / "bystander.json").read_bytes() == b"{}"
    after = contents(folder)
    recover(folder)
    assert contents(folder) == after


def altered(data: bytes, **changes: Any) -> bytes:
    return json.dumps({**json.loads(data), **changes}).encode()


HOSTILE_MANIFESTS: dict[str, Any] = {
    "deep": b"[" * 1_000_000,
    "huge": b'{"schema": 1, "segments": [' + b"[                 ]," * 500_000 + b"[]]}",
    "no utf-8": b"\xff\xfe{}",
    "nan": {"fps": float("nan")},
    "infinity": b'{"fps": 1e999}',
    "negative stride": {"frame_stride": -1},
    "endless": {"end_step": 2**53},
    "endless span": {"frames": {"requested": 1, "encoded": 0, "dropped": {}, "missing_steps": [[-(2**53), 2**53]]}},
    "many spans": {
        "frames": {"requested": 1, "encoded": 0, "dropped": {}, "missing_steps": [[0, 3_000_000], [2, 3_000_002]]}
    },
    "no balance": {"frames": {"requested": 5, "encoded": 9, "dropped": {"closed": 2**53}, "missing_steps": []}},
    "far start": {"start_step": -(2**53)},
    "wrong types": {"segments": "none"},
    "upwards": {"segments": [{"file": "../bystander.json", "first_step": 0, "open": True}]},
    "absolute": {"segments": [{"file": "/etc/passwd", "first_step": 0, "open": True}]},
    "own manifest": {"segments": [{"file": MANIFEST, "first_step": 0, "open": True}]},
    "another clip": {"clip": "../bystander"},
    "twice": {
        "segments": [
            {"file": f"{NAME}.000.mp4", "first_step": 0, "last_step": 58, "frames": 30, "bytes": 9, "duration_s": 1}
        ]
        * 2
    },
}


@pytest.mark.parametrize("hostile", HOSTILE_MANIFESTS)
@pytest.mark.parametrize("state", ["recording", "complete"])
def test_a_hostile_manifest_is_a_line_and_no_crash(
    tmp_path_factory: pytest.TempPathFactory, killed: dict[str, bytes], hostile: str, state: str
) -> None:
    data = HOSTILE_MANIFESTS[hostile]
    if isinstance(data, dict):
        data = altered(killed[MANIFEST], state=state, **data)
    look_and_repair(hostile_folder(tmp_path_factory, {**killed, MANIFEST: data}))


def bomb(data: bytes, kind: bytes, at: int, count: int) -> bytes:
    """Return a segment whose description says that it has `count` frames."""
    place = data.rindex(kind) + 4 + at
    return data[:place] + count.to_bytes(4) + data[place + 4 :]


def test_a_segment_that_says_it_has_millions_of_frames_takes_no_memory(
    tmp_path_factory: pytest.TempPathFactory, killed: dict[str, bytes]
) -> None:
    import resource

    part, closed = f"{NAME}.002.mp4.part", f"{NAME}.001.mp4"
    plain_trun = bomb(killed[part], b"trun", 0, 0)
    files = {part: bomb(plain_trun, b"trun", 4, 80_000_000), closed: bomb(killed[closed], b"stsz", 8, 80_000_000)}
    folder = hostile_folder(tmp_path_factory, {**killed, **files})
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    look_and_repair(folder)
    assert any("more frames than bytes" in line for line in inspect(folder).differences)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 200_000


@pytest.mark.parametrize(
    "comment",
    [
        {"clip": "../bystander"},
        {"clip": "run\x1b[2J"},
        {"clip": ["run"]},
        {"fps": "1e999999999"},
        {"fps": "-30"},
        {"fps": 30},
        {"fps": "1/0"},
        {"start_step": 10**300},
        {"start_step": 2**53},
        {"frame_stride": 2**53},
        {"frame_stride": True},
        {"stepreel": 2},
    ],
)
def test_a_label_is_data(tmp_path: Path, comment: dict[str, Any]) -> None:
    from stepreel.storage.segment_container import SegmentLabel

    label = {"stepreel": 1, "clip": NAME, "start_step": 0, "frame_stride": STRIDE, "fps": "30", **comment}
    found = SegmentLabel.from_comment(json.dumps(label))
    assert found is None or found.clip == NAME


@settings(max_examples=60, deadline=None)
@given(
    victim=st.sampled_from([MANIFEST, f"{NAME}.000.mp4", f"{NAME}.002.mp4.part"]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=12)), min_size=1, max_size=8),
    end=st.floats(0.05, 1),
)
def test_damaged_files_are_lines_and_no_crash(
    tmp_path_factory: pytest.TempPathFactory,
    killed: dict[str, bytes],
    victim: str,
    edits: list[tuple[float, bytes]],
    end: float,
) -> None:
    data = bytearray(killed[victim])
    for place, patch in edits:
        start = int(place * len(data))
        data[start : start + len(patch)] = patch
    look_and_repair(hostile_folder(tmp_path_factory, {**killed, victim: bytes(data[: int(end * len(data))])}))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(
    changes=st.dictionaries(
        st.sampled_from(["state", "start_step", "end_step", "frame_stride", "fps", "frames", "segments", "clip"]),
        JSON_VALUES | st.integers(-(2**53), 2**53) | st.sampled_from(["complete", "failed"]),
        min_size=1,
    )
)
def test_manifests_of_any_content_are_lines_and_no_crash(
    tmp_path_factory: pytest.TempPathFactory, killed: dict[str, bytes], changes: dict[str, Any]
) -> None:
    look_and_repair(hostile_folder(tmp_path_factory, {**killed, MANIFEST: altered(killed[MANIFEST], **changes)}))
