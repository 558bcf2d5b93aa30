"""Whether a frame may be captured: by what training has published and what the service says is taken."""

from __future__ import annotations

from ..clip import CaptureRequest
from ..config import DropPolicy, RecorderConfig
from ..scheduling.drop_policies import is_on_grid
from ..transport.shared_memory import ServiceWord, SharedMemory, TrainingWord
from .frame_pool import FramePool

_LEAST_SLACK = 256
"""Frames beyond `queue_depth` that may be published before the service has looked at them and dropped some."""


class Admission:
    """Reads counters only. Belongs to the training thread.

    The service applies a policy that drops what waits, and looks every few milliseconds: until then the queue may be
    a little deeper than `queue_depth`. A policy that only refuses or waits is held to exactly here.
    """

    def __init__(self, config: RecorderConfig, memory: SharedMemory, pool: FramePool) -> None:
        self.waits = config.drop_policy is DropPolicy.BLOCK
        """Whether a frame without room waits for it, instead of being refused."""
        self.depth_high_water = 0
        self._training, self._service = memory.training, memory.service
        self._pool = pool
        self._queue_nbytes = memory.layout.queue_nbytes
        is_strict = config.drop_policy in (DropPolicy.BLOCK, DropPolicy.DROP_NEWEST)
        self._depth = config.queue_depth if is_strict else config.queue_depth + max(_LEAST_SLACK, config.queue_depth)
        self._most_nbytes = self._queue_nbytes if is_strict else memory.layout.pool_nbytes

    @property
    def depth(self) -> int:
        """Frames that wait for a worker."""
        return max(self._training[TrainingWord.FRAMES] - self._service[ServiceWord.FRAMES_TAKEN], 0)

    @property
    def nbytes(self) -> int:
        """Their bytes."""
        return max(self._training[TrainingWord.FRAME_NBYTES] - self._service[ServiceWord.FRAME_NBYTES_TAKEN], 0)

    def fits(self, nbytes: int) -> bool:
        """Whether a capture of that size could ever be admitted."""
        return nbytes <= self._queue_nbytes

    def is_wanted(self, request: CaptureRequest, stream: int) -> bool:
        """Whether a clip that the service has thinned still takes the frame."""
        word = self._service[ServiceWord.GRIDS + stream]
        power = word & 0xFF
        return not power or word >> 8 != request.clip.clip_index or is_on_grid(1 << power, request.pts)

    def has_room(self, nbytes: int) -> bool:
        """Whether a capture of that size may be made now."""
        training, service = self._training, self._service
        return (
            training[TrainingWord.FRAMES] - service[ServiceWord.FRAMES_TAKEN] < self._depth
            and training[TrainingWord.FRAME_NBYTES] - service[ServiceWord.FRAME_NBYTES_TAKEN] + nbytes
            <= self._most_nbytes
            and self._pool.has_room(nbytes)
        )

    def published(self, nbytes: int) -> None:
        """Count a frame that is in the journal."""
        training = self._training
        training[TrainingWord.FRAME_NBYTES] += nbytes
        frames = training[TrainingWord.FRAMES] = training[TrainingWord.FRAMES] + 1
        depth = frames - self._service[ServiceWord.FRAMES_TAKEN]
        if depth > self.depth_high_water:
            self.depth_high_water = depth
