"""How pictures become video, and video pictures, in the same colours from player to player."""

from __future__ import annotations

from typing import Any

import av

_SCALER_THREADS = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
TO_VIDEO_COLORS: dict[str, Any] = {
    "src_colorspace": "ITU709",
    "dst_colorspace": "ITU709",
    "src_color_range": "JPEG",
    "dst_color_range": "MPEG",
    # Measured: the closest to the picture of all, and as cheap as any but POINT.
    "interpolation": "AREA",
    **_SCALER_THREADS,
}
"""Converts sRGB to limited-range BT.709, for `VideoReformatter.reformat`; both sides are said, nothing is guessed."""
FROM_VIDEO_COLORS: dict[str, Any] = {
    **TO_VIDEO_COLORS,
    "src_color_range": "MPEG",
    "dst_color_range": "JPEG",
}
"""The way back."""
