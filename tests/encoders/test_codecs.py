from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest

import stepreel
from stepreel.config import EncodeSettings, as_fraction
from stepreel.encoders.codecs import (
    check_codec_name,
    choose_codec,
    encoder_pix_fmt,
    padded_size,
    video_encoders,
)
from stepreel.errors import CodecUnavailableError

SETTINGS = EncodeSettings(
    codec="auto",
    preset="superfast",
    crf=23,
    pix_fmt="yuv420p",
    gop_s=1.0,
    segment_s=None,
    segment_bytes=None,
    fps=Fraction(30),
)


def test_auto_finds_an_encoder_that_mp4_can_hold() -> None:
    assert choose_codec(SETTINGS, 1280, 720) in video_encoders()


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_named_encoder_is_taken(codec: str) -> None:
    assert choose_codec(replace(SETTINGS, codec=codec), 640, 360) == codec


def test_an_alias_is_resolved_to_the_encoder_behind_it() -> None:
    assert choose_codec(replace(SETTINGS, codec="h264"), 640, 360) == av.Codec("h264", "w").name


@pytest.mark.parametrize(
    ("refused", "found"),
    [
        (replace(SETTINGS, codec="no_such_codec"), "'no_such_codec'"),
        (replace(SETTINGS, codec="aac"), "encodes audio"),
        (replace(SETTINGS, codec="libx264", preset="warp9"), "superfast, veryfast"),
        (replace(SETTINGS, codec="libx264", pix_fmt="rgb24"), "yuv420p"),
        (replace(SETTINGS, codec="libx264", pix_fmt="yuvj420p"), "yuv420p"),
        (replace(SETTINGS, codec="auto", pix_fmt="no_such_format"), "libx264"),
    ],
)
def test_what_can_not_be_encoded_is_refused_with_what_can(refused: EncodeSettings, found: str) -> None:
    with pytest.raises(CodecUnavailableError, match=found):
        choose_codec(refused, 640, 360)


@pytest.mark.parametrize("name", [name for name in video_encoders() if name.startswith("h264_")])
def test_a_hardware_encoder_opens_or_is_refused_in_silence(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        outcome = choose_codec(replace(SETTINGS, codec=name), 640, 360)
    except CodecUnavailableError as exc:
        outcome = str(exc)
    assert name in outcome
    assert capfd.readouterr() == ("", "")


def test_a_size_that_an_encoder_can_not_take_is_refused() -> None:
    with pytest.raises(CodecUnavailableError, match="100000x100000"):
        choose_codec(replace(SETTINGS, codec="libx264"), 100_000, 100_000)


def test_checking_a_name_opens_nothing() -> None:
    check_codec_name("auto")
    check_codec_name("libx264")
    with pytest.raises(CodecUnavailableError, match="libx264"):
        check_codec_name("no_such_codec")


def test_probing_writes_nothing_to_the_screen() -> None:
    program = (
        "from fractions import Fraction\n"
        "from stepreel.config import EncodeSettings\n"
        "from stepreel.encoders.codecs import choose_codec\n"
        "choose_codec(EncodeSettings(codec='auto', preset='superfast', crf=23, pix_fmt='yuv420p', gop_s=1.0,"
        " segment_s=None, segment_bytes=None, fps=Fraction(30)), 320, 240)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(stepreel.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_format_of_equal_sampling_replaces_the_asked_one() -> None:
    takers = [name for name in video_encoders() if name == "h264_qsv"]
    if not takers:
        pytest.skip("this FFmpeg has no encoder that takes only nv12")
    assert encoder_pix_fmt("h264_qsv", "yuv420p") == "nv12"


@pytest.mark.parametrize(
    ("pix_fmt", "size", "padded"),
    [
        ("yuv420p", (63, 47), (64, 48)),
        ("yuv420p", (64, 48), (64, 48)),
        ("yuv422p", (63, 47), (64, 47)),
        ("yuv444p", (63, 47), (63, 47)),
    ],
)
def test_sides_are_padded_to_whole_chroma_samples(pix_fmt: str, size: tuple[int, int], padded: tuple[int, int]) -> None:
    assert padded_size(pix_fmt, *size) == padded


@pytest.mark.parametrize(
    ("fps", "fraction"),
    [
        (30.0, Fraction(30)),
        (29.97, Fraction(2997, 100)),
        (30000 / 1001, Fraction(30000, 1001)),
        (1 / 3, Fraction(1, 3)),
        (0.0001, Fraction(1, 10000)),
    ],
)
def test_a_frame_rate_becomes_a_fraction_of_small_numbers(fps: float, fraction: Fraction) -> None:
    assert as_fraction(fps) == fraction


def test_a_crash_takes_at_most_gop_s_with_the_frame_that_is_held_back() -> None:
    assert SETTINGS.gop_frames == 29
    assert replace(SETTINGS, fps=Fraction(1)).gop_frames == 1
