"""Where `recover` was imported from before; it lives in `stepreel.storage.recovery`."""

from ..storage.recovery import recover

__all__ = ["recover"]
