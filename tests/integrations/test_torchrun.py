"""Four ranks that `torchrun` starts record into one folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stepreel.storage.folder_lock import is_recorded_into
from stepreel.storage.recovery import recover

from ..faults import evidence
from ..recordings import poll_until

pytestmark = [pytest.mark.integrations, pytest.mark.timeout(180)]

RANKS = 4
STEPS = 75
TRAINING = Path(__file__).with_name("torchrun_training.py")


def train(folder: Path, *, killed_rank: int = -1) -> subprocess.CompletedProcess[str]:
    torchrun = Path(sys.executable).with_name("torchrun")
    command = [str(torchrun), "--standalone", "--nproc_per_node", str(RANKS)]
    command += [str(TRAINING), str(folder), str(STEPS), str(killed_rank)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    poll_until(lambda: not is_recorded_into(folder))  # No worker is left, either.
    return run


def clip_name(rank: int, step: int) -> str:
    return f"rl-video-rank{rank}-step-{step}"


def test_each_rank_records_all_of_its_steps_under_names_of_its_own(output_dir: Path) -> None:
    run = train(output_dir)
    assert run.returncode == 0, run.stderr
    clips = evidence.check_done(output_dir)
    starts = range(0, STEPS, 30)
    assert {clip.name for clip in clips} == {clip_name(rank, step) for rank in range(RANKS) for step in starts}
    for rank in range(RANKS):
        mine = [clip for clip in clips if clip.name.startswith(f"rl-video-rank{rank}-")]
        assert sorted(step for clip in mine for step in clip.steps) == list(range(STEPS))
        session = json.loads((output_dir / f"session-rank{rank}.json").read_text())
        assert session["ended_at"]
        assert session["configuration"]["name_prefix"] == f"rl-video-rank{rank}"
    assert recover(output_dir).sound_count == len(clips)


def test_a_killed_rank_ends_the_others_and_every_clip_can_be_repaired(output_dir: Path) -> None:
    run = train(output_dir, killed_rank=2)
    assert run.returncode != 0
    evidence.check_alive(output_dir)
    assert not recover(output_dir).problems
    clips = evidence.check_done(output_dir)
    assert {clip_name(rank, 0) for rank in range(RANKS)} <= {clip.name for clip in clips}
    for rank in range(RANKS):
        first = next(clip for clip in clips if clip.name == clip_name(rank, 0))
        assert first.steps == set(range(30))
