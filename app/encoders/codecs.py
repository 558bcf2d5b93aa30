"""Video encoders: which one opens on this machine, and how each is told the same thing."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from functools import lru_cache

import av
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat

from ..config import EncodeSettings as EncodeSettings
from ..config import as_fraction as as_fraction
from ..errors import CodecUnavailableError

HARDWARE_ENCODERS = ("h264_nvenc", "h264_qsv", "h264_amf", "h264_videotoolbox")
"""Tried first by "auto". VA-API is missing because its encoder takes frames from GPU memory only."""
SOFTWARE_ENCODERS = ("libx264", "libopenh264", "h264_v4l2m2m", "h264_mf", "mpeg4")
"""Tried next, best first."""

X264_PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow", "placebo"),
)
"""Those of libx264 and libx265, fastest first."""

_PLAIN_FORMATS = ("yuv420p", "nv12", "yuv422p", "yuv444p")
_PROBE_FRAME_COUNT = 4
"""Enough for an encoder to show that it reorders frames."""
_BT709 = 1
"""Primaries, transfer function and matrix of BT.709 have the same number, from ITU-T H.273."""
_LIMITED_RANGE = 1
_DEFAULT_CRF = 23


def check_codec_name(name: str) -> None:
    """Check that `name` is "auto" or a video encoder that was built in; whether it opens is seen later.

    Raises:
        CodecUnavailableError: there is no such encoder.
    """
    if name != "auto":
        find_encoder(name)


def choose_codec(settings: EncodeSettings, width: int, height: int) -> str:
    """Return the name of an encoder that has encoded frames of `width` x `height` pixels on this machine.

    The answer is kept for the life of the process.

    Raises:
        CodecUnavailableError: the named encoder, or with "auto" none at all, takes these settings at this size.
    """
    return _choose(settings, width, height)


@lru_cache(maxsize=32)
def _choose(settings: EncodeSettings, width: int, height: int) -> str:
    if settings.codec == "auto":
        _check_preset("libx264", settings.preset)  # Not taken for a reason to fall back to another encoder.
    candidates = (settings.codec,) if settings.codec != "auto" else HARDWARE_ENCODERS + SOFTWARE_ENCODERS
    failures = []
    for name in candidates:
        try:
            return _probe(name, settings, width, height)
        except CodecUnavailableError as exc:
            if settings.codec != "auto":
                raise
            failures.append(str(exc))
    raise CodecUnavailableError(
        f'codec: got "auto"; no encoder takes {width}x{height} {settings.pix_fmt}: ' + "; ".join(failures)
    )


def configure(context: VideoCodecContext, settings: EncodeSettings, width: int, height: int) -> None:
    """Set up an encoder that is not open yet for frames of `width` x `height` pixels in limited-range BT.709."""
    context.width = width
    context.height = height
    context.pix_fmt = encoder_pix_fmt(context.name, settings.pix_fmt)
    context.time_base = settings.time_base
    context.framerate = settings.fps
    context.thread_count = settings.threads
    context.gop_size = settings.gop_frames
    # Frames in reading order: what a crash takes stays below one GOP, and times need no edit list.
    context.max_b_frames = 0
    context.color_primaries = _BT709
    context.color_trc = _BT709
    context.colorspace = _BT709
    context.color_range = _LIMITED_RANGE
    context.options = dict(_options(context.name, settings))
    if context.name == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # It writes to stderr past FFmpeg's log; 1: errors only.
    if context.name not in _CONSTANT_QUALITY:
        context.bit_rate = _bit_rate(settings, width, height)


def encoder_pix_fmt(name: str, pix_fmt: str) -> str:
    """Return `pix_fmt`, or the format of equal sampling that the encoder takes in its place.

    Raises:
        CodecUnavailableError: the encoder takes neither.
    """
    formats = [video_format.name for video_format in find_encoder(name).video_formats or ()]
    if not formats and pix_fmt in _PLAIN_FORMATS:
        return pix_fmt  # The encoder does not say; opening it tells.
    if pix_fmt in formats and _is_limited_yuv(pix_fmt):
        return pix_fmt
    if pix_fmt == "yuv420p" and "nv12" in formats:
        return "nv12"
    usable = ", ".join(found for found in formats if _is_limited_yuv(found)) or "none"
    raise CodecUnavailableError(f"pix_fmt: got {pix_fmt!r}; {name} takes: {usable}")


def padded_size(pix_fmt: str, width: int, height: int) -> tuple[int, int]:
    """Return the size that holds a picture in whole chroma samples: even sides for 4:2:0."""
    layout = VideoFormat(pix_fmt, 2, 2)
    return (
        width + width % 2 if layout.chroma_width(2) == 1 else width,
        height + height % 2 if layout.chroma_height(2) == 1 else height,
    )


def _is_limited_yuv(pix_fmt: str) -> bool:
    # The "yuvj" formats are full range, whatever the tags say.
    return pix_fmt.startswith(("yuv4", "nv", "p0")) and not pix_fmt.startswith("yuvj")


def find_encoder(name: str) -> av.Codec:
    """Return a video encoder that was built in.

    Raises:
        CodecUnavailableError: there is none of this name.
    """
    try:
        codec = av.Codec(name, "w")
    except ValueError as exc:
        raise CodecUnavailableError(
            f'codec: got {name!r}, which this FFmpeg does not have; allowed: "auto", ' + ", ".join(video_encoders())
        ) from exc
    if codec.type != "video":
        raise CodecUnavailableError(
            f'codec: got {name!r}, which encodes {codec.type}; allowed: "auto", ' + ", ".join(video_encoders())
        )
    return codec


@lru_cache(maxsize=1)
def video_encoders() -> tuple[str, ...]:
    """Return the names of the video encoders that were built in and that MP4 can hold."""
    with av.open(io.BytesIO(), "w", format="mp4") as container:
        held = container.supported_codecs
    return tuple(sorted(name for name in av.codecs_available if _encodes(name, held)))


def _encodes(name: str, held: set[str]) -> bool:
    try:
        codec = av.Codec(name, "w")
    except ValueError:
        return False  # A decoder.
    return codec.name == name and codec.type == "video" and codec.canonical_name in held


def _probe(name: str, settings: EncodeSettings, width: int, height: int) -> str:
    """Encode a few frames, which finds what opening alone does not: missing devices, limits of size."""
    codec = find_encoder(name)
    pix_fmt = encoder_pix_fmt(name, settings.pix_fmt)
    _check_preset(codec.name, settings.preset)
    width, height = padded_size(pix_fmt, width, height)
    tried = f"codec: {name} at {width}x{height} {pix_fmt}, crf {settings.crf}"
    try:
        times = _encode_blank(name, settings, width, height)
    except (av.FFmpegError, ValueError, OSError, RuntimeError) as exc:
        found = getattr(exc, "strerror", None) or " ".join(str(exc).split())
        raise CodecUnavailableError(
            f'{tried} does not open on this machine ({found}); take "auto" or one of ' + ", ".join(video_encoders())
        ) from exc
    if times != list(range(_PROBE_FRAME_COUNT)):
        raise CodecUnavailableError(f"{tried} reorders or loses frames; take libx264")
    return codec.name


def _check_preset(name: str, preset: str) -> None:
    if name in ("libx264", "libx265") and preset not in X264_PRESETS:
        raise CodecUnavailableError(f"preset: got {preset!r}; {name} has: " + ", ".join(X264_PRESETS))


def _encode_blank(name: str, settings: EncodeSettings, width: int, height: int) -> list[int | None]:
    """Return the `pts` of the packets that come of `_PROBE_FRAME_COUNT` blank frames."""
    with av.open(io.BytesIO(), "w", format="mp4") as container:
        stream = container.add_stream(name)
        context = stream.codec_context
        if not isinstance(context, VideoCodecContext):
            raise ValueError("not a video encoder")
        configure(context, settings, width, height)
        context.open()
        times: list[int | None] = []
        for pts in range(_PROBE_FRAME_COUNT):
            frame = av.VideoFrame(width, height, context.pix_fmt or settings.pix_fmt)
            for plane in frame.planes:
                plane.update(bytes([128]) * plane.buffer_size)
            frame.pts = pts
            frame.time_base = settings.time_base
            times += [packet.pts for packet in context.encode(frame)]
        return times + [packet.pts for packet in context.encode(None)]


_CONSTANT_QUALITY = frozenset(
    {"libx264", "libx265", "h264_nvenc", "hevc_nvenc", "av1_nvenc", "h264_qsv", "hevc_qsv", "libsvtav1", "mpeg4"}
    | {"libvpx-vp9"}
)
"""Encoders that are told a quality; all others get a bit rate."""


def _options(name: str, settings: EncodeSettings) -> Mapping[str, str]:
    """Return an encoder's own options: constant quality, no frame kept inside for longer than it must be."""
    crf = str(settings.crf)
    match name:
        case "libx264":
            return {"preset": settings.preset, "crf": crf, "tune": "zerolatency", "forced-idr": "1"}
        case "libx265":
            quiet = "log-level=none"
            return {
                "preset": settings.preset,
                "crf": crf,
                "tune": "zerolatency",
                "forced-idr": "1",
                "x265-params": quiet,
            }
        case "h264_nvenc" | "hevc_nvenc" | "av1_nvenc":
            return {"rc": "vbr", "cq": crf, "b": "0", "delay": "0", "zerolatency": "1", "forced-idr": "1"}
        case "h264_qsv" | "hevc_qsv":
            return {"global_quality": crf, "async_depth": "1", "forced_idr": "1"}
        case "libsvtav1":
            return {"crf": crf, "svtav1-params": "pred-struct=1:lookahead=0"}
        case "libvpx-vp9":
            return {"crf": crf, "b": "0", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
        case "mpeg4":
            scale = min(31, max(1, round(2 ** ((settings.crf - 11) / 6))))
            return {"flags": "+qscale", "global_quality": str(scale * _QP2LAMBDA)}
        case _:
            return {}


_QP2LAMBDA = 118
"""`FF_QP2LAMBDA`: FFmpeg counts `global_quality` in these."""


def _bit_rate(settings: EncodeSettings, width: int, height: int) -> int:
    """Return bits a second for encoders without constant quality: 0.15 a pixel, halved by 6 steps of `crf`."""
    pixel_rate = width * height * float(settings.fps)
    return max(100_000, int(0.15 * pixel_rate * 2 ** ((_DEFAULT_CRF - settings.crf) / 6)))
