# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Images that wait for the student's result, and results that wait for their image. Free of ROS."""

from __future__ import annotations

from collections import deque
import dataclasses
from typing import NamedTuple

from kd_perception.messages.wire import SerializedImage

# Results that wait for their image at once: more than a camera has in flight.
MAX_AWAITED = 64


class BufferedImage(NamedTuple):
    """A serialised image message and what its header says."""

    stamp_ns: int
    raw: bytes
    view: SerializedImage


@dataclasses.dataclass(frozen=True)
class Arrival:
    """
    What an image's arrival means for results that waited.

    :param sequence: of the result that waited for this image; None: none did.
    :param lost: of results whose image this one has overtaken: it will not come.
    """

    sequence: int | None
    lost: tuple[int, ...]


class ImageBuffer:
    """
    The newest images of one camera, which arrive in the order of their stamps or not at all.

    A large image may arrive after the small result that the student made of it.

    :param capacity: images that are kept; each has a result before it is dropped, in the normal case.
    """

    def __init__(self, capacity: int):
        """Start empty."""
        self._images: deque[BufferedImage] = deque(maxlen=capacity)
        self._newest_ns: int | None = None
        self._awaited: dict[int, int] = {}      # stamp -> sequence

    def add(self, image: BufferedImage) -> Arrival:
        """Keep an image, the oldest makes room; one that was awaited is the caller's and not kept."""
        stamp_ns = image.stamp_ns
        self._newest_ns = stamp_ns
        sequence = self._awaited.pop(stamp_ns, None)
        lost = [stamp for stamp in self._awaited if stamp < stamp_ns]
        if sequence is None:
            self._images.append(image)
        return Arrival(sequence, tuple(self._awaited.pop(stamp) for stamp in lost))

    def take(self, stamp_ns: int) -> BufferedImage | None:
        """Return the newest image of that stamp; it and all before it are not kept any more."""
        for index in range(len(self._images) - 1, -1, -1):
            if self._images[index].stamp_ns == stamp_ns:
                image = self._images[index]
                for _ in range(index + 1):
                    self._images.popleft()
                return image
        return None

    def may_come(self, stamp_ns: int) -> bool:
        """Return whether the image of a result may be on its way: no later one was seen."""
        return (self._newest_ns is None or self._newest_ns < stamp_ns) and len(self._awaited) < MAX_AWAITED

    def expect(self, stamp_ns: int, sequence: int) -> None:
        """Let a result wait for its image."""
        self._awaited[stamp_ns] = sequence

    def give_up(self, stamp_ns: int) -> None:
        """Forget a result that waits no more; harmless where none does."""
        self._awaited.pop(stamp_ns, None)

    def clear(self) -> None:
        """Forget everything."""
        self._images.clear()
        self._awaited.clear()
        self._newest_ns = None
