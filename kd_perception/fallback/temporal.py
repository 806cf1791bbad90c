# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What the frames before say of a frame: the last step before an output leaves.

It takes the arbiter's outputs as they are released, in order, adds the boxes that are carried forward and
gives each detection its track's id. It never holds an output back, drops one or changes their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses

from kd_perception.boxes.detections import Detections
from kd_perception.fallback.carry import Carrier, CarrySettings
from kd_perception.fallback.flow import FlowImage
from kd_perception.fallback.merge import Merger
from kd_perception.fallback.provenance import Output, Source
from kd_perception.fallback.tracks import Tracks

# Of outputs that leave in a bunch only the last ones are worth the time: the others are old already, and
# those that are due next must not wait for them.
MAX_BUNCH = 4
_FROM_TEACHER = (Source.TEACHER, Source.MERGED)

View = Callable[[], FlowImage | None]


class TemporalStage:
    """One camera's. Not thread-safe; memory: a small image for each output that has not left."""

    def __init__(self, merger: Merger, settings: CarrySettings):
        """Start without history."""
        self._merger = merger
        self._carrier = Carrier(settings)
        self._tracks = Tracks()
        self._views: dict[int, FlowImage] = {}
        self._awaited: set[int] = set()

    @property
    def counts(self) -> Mapping[str, int]:
        """Totals since the start; see `Carrier.counts`."""
        return self._carrier.counts

    def configure(self, settings: CarrySettings) -> None:
        """Change the settings between frames."""
        self._carrier.configure(settings)

    def expect(self, sequence: int, view: View | None, asked: bool) -> None:
        """
        Take a frame whose output is to come.

        :param view: gives its image, where that is at hand. :param asked: it goes to the teacher.
        """
        if self._carrier.wants_view(asked):
            self._awaited.add(sequence)
            self.seen(sequence, view)

    def seen(self, sequence: int, view: View | None) -> None:
        """Take the image of an expected frame, which may come after it."""
        if view is None or sequence not in self._awaited:
            return
        found = view()
        if found is not None:
            self._views[sequence] = found

    def late(self, stamp_ns: int, answer: Detections) -> None:
        """Take an answer to a frame that has left, class ids of the teacher; it is for those to come."""
        try:
            self._carrier.late(stamp_ns, self._merger.teacher_only(answer).detections)
        except ValueError:      # a peer's bad answer
            return

    def finish(self, outputs: Sequence[Output]) -> tuple[Output, ...]:
        """Return the outputs as they are published."""
        left = len(outputs)
        finished = []
        for output in outputs:
            view = self._views.pop(output.sequence, None)
            self._awaited.discard(output.sequence)
            finished.append(self._finish(output, view if left <= MAX_BUNCH else None))
            left -= 1
        return tuple(finished)

    def _finish(self, output: Output, view: FlowImage | None) -> Output:
        if output.provenance.source in _FROM_TEACHER:
            self._carrier.answered(output.stamp_ns, view, output.detections, output.student)
        else:
            output = self._carry(output, view)
        ids = self._tracks.assign(output.detections, output.stamp_ns)
        return dataclasses.replace(output, track_ids=tuple(ids.tolist()))

    def _carry(self, output: Output, view: FlowImage | None) -> Output:
        found = self._carrier.unanswered(
            output.stamp_ns, view, output.detections, output.student, self._merger.settings.max_detections)
        if not found.age_frames:
            return output
        provenance = dataclasses.replace(
            output.provenance, source=Source.CARRIED, carried=found.boxes, carried_frames=found.age_frames,
            refuted=found.refuted, from_student=len(found.detections) - found.boxes)
        return dataclasses.replace(output, detections=found.detections, provenance=provenance)
