"""Pictures as JPEG files in memory."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from ..errors import EncodeError


def to_jpeg(pixels: NDArray[np.uint8], quality: int = 5) -> bytes:
    """Return a picture as a JPEG file.

    Args:
        pixels: Shape `[height, width, 3]`, uint8, sRGB.
        quality: FFmpeg's scale, 2 (best) to 31.

    Raises:
        EncodeError: it is no picture.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise EncodeError(f"pixels: got shape {list(pixels.shape)}; allowed: [height, width, 3]")
    try:
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        context = VideoCodecContext.create("mjpeg", "w")
        context.width, context.height = frame.width, frame.height
        context.pix_fmt = "yuvj420p"
        context.time_base = Fraction(1)
        context.options = {"qmin": str(quality), "qmax": str(quality)}
        # JFIF knows BT.601 at full range only.
        converted = VideoReformatter().reformat(
            frame, format="yuvj420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.JPEG
        )
        return b"".join(bytes(packet) for packet in [*context.encode(converted), *context.encode(None)])
    except (av.FFmpegError, ValueError) as exc:
        raise EncodeError(f"a picture of shape {list(pixels.shape)} can't become a JPEG: {exc}") from exc
