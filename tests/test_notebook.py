"""Clips and summaries show themselves in a notebook."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path

import pytest

from stepreel import Clip, ClipState, Recorder, RecorderConfig, Summary
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.clip import FrameCounts, Segment


@pytest.fixture
def summary(output_dir: Path) -> Summary:
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=10)
    with Recorder(config, SyntheticBackend(width=64, height=48)) as recorder:
        for _ in range(20):
            recorder.step()
    return recorder.summary()


def evil_clip() -> Clip:
    name = "<script>alert(1)</script>\x1b\"'&"
    return Clip(
        name=name,
        stream="",
        backend="",
        state=ClipState.COMPLETE,
        start_step=0,
        end_step=1,
        frame_stride=1,
        fps=30.0,
        width=None,
        height=None,
        codec=None,
        frames=FrameCounts(requested=2, encoded=2),
        missing_steps=(),
        segments=(Segment(file=f"{name}.mp4", first_step=0, last_step=1, frames=2, nbytes=1, duration_s=0.1),),
    )


def test_a_summary_is_a_table_of_its_clips(summary: Summary) -> None:
    html = summary._repr_html_()
    assert html.count("<tr>") == 1 + len(summary.clips)
    assert all(clip.name in html for clip in summary.clips)
    assert "10 of 10 frames" in html
    assert "<video" not in html


def test_a_clip_plays_where_its_folder_is_known(summary: Summary, output_dir: Path) -> None:
    clip = replace(summary.clips[0], folder=output_dir)
    (data,) = re.findall(r'src="data:video/mp4;base64,([^"]*)"', clip._repr_html_())
    assert base64.b64decode(data) == (output_dir / clip.segments[0].file).read_bytes()


def test_a_clip_without_a_folder_or_files_is_text(summary: Summary, output_dir: Path) -> None:
    clip = summary.clips[0]
    assert "<video" not in replace(clip, folder=None)._repr_html_()
    (output_dir / clip.segments[0].file).rename(output_dir / "elsewhere.mp4")
    (output_dir / clip.segments[0].file).symlink_to(output_dir / "elsewhere.mp4")
    html = replace(clip, folder=output_dir)._repr_html_()
    assert clip.name in html
    assert "<video" not in html


def test_a_large_clip_stays_out_of_the_notebook(
    summary: Summary, output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepreel.notebook._MOST_VIDEO_NBYTES", 100)
    assert "<video" not in replace(summary.clips[0], folder=output_dir)._repr_html_()


def test_names_are_text(summary: Summary) -> None:
    for html in (evil_clip()._repr_html_(), replace(summary, clips=(evil_clip(),))._repr_html_()):
        assert "<script" not in html
        assert "\x1b" not in html
        assert "&lt;script&gt;" in html


def test_of_many_clips_the_last_are_shown(summary: Summary) -> None:
    many = tuple(replace(summary.clips[0], name=f"clip-{number}") for number in range(250))
    html = replace(summary, clips=many)._repr_html_()
    assert html.count("<tr>") == 101
    assert "clip-249<" in html
    assert "clip-149<" not in html
    assert "150 earlier clips" in html
