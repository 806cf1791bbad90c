# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What the classes of a foreign network are called here.

Maps of well-known label sets are data, in `config/class_maps`; `model attach` writes the one in use into
the model's metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.riders import joined_boxes, ridden_machines

MAX_NETWORK_CLASSES = 10_000


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class RiderRule:
    """
    People on machines are one object (`boxes.riders`).

    :param label: what a person on a `machine` becomes, in a box that holds both, with the person's score.
    :param person: the network's classes that may ride.
    :param machine: the network's classes that make a person a rider of ours.
    :param other_machine: those whose riders are dropped: neither pedestrians nor cyclists.
    :param least_score: of a machine, to count.
    """

    label: str
    person: tuple[str, ...]
    machine: tuple[str, ...]
    other_machine: tuple[str, ...] = ()
    least_score: float = 0.1

    def __post_init__(self):
        """Check ranges."""
        _require(bool(self.person) and bool(self.machine), 'rider: person and machine must be given')
        _require(0 < self.least_score <= 1, 'rider.least_score must be in (0, 1]')


@dataclasses.dataclass(frozen=True)
class ClassMap:
    """
    From the network's classes to ours.

    :param names: the network's classes by number; an empty name stands for none.
    :param to: name -> label; a class that is not listed is dropped.
    :param rider: joins people and machines; None leaves them apart.
    """

    names: tuple[str, ...]
    to: dict[str, str]
    rider: RiderRule | None = None

    def __post_init__(self):
        """Check that what is mapped is there."""
        _require(1 <= len(self.names) <= MAX_NETWORK_CLASSES, f'names: expected 1 to {MAX_NETWORK_CLASSES}')
        known = [name for name in self.names if name]
        _require(len(set(known)) == len(known), 'names must differ from one another')
        unknown = sorted(set(self.to) - set(known))
        _require(not unknown, f'to: the network has no class {", ".join(unknown)}')
        _require(bool(self.to), 'to: none of the classes is mapped to a label')
        if self.rider is not None:
            needed = {*self.rider.person, *self.rider.machine, *self.rider.other_machine}
            unknown = sorted(needed - set(known))
            _require(not unknown, f'rider: the network has no class {", ".join(unknown)}')

    def check_labels(self, labels: Sequence[str]) -> None:
        """
        Check that every target is a label.

        :raises ValueError: it is none.
        """
        targets = {*self.to.values(), *([self.rider.label] if self.rider else [])}
        unknown = sorted(targets - set(labels))
        _require(not unknown, f'classes: {", ".join(unknown)} is none of the labels ({", ".join(labels)})')

    def least_score(self, score_threshold: float) -> float:
        """Return the score down to which detections are needed for the answer at a threshold."""
        return score_threshold if self.rider is None else min(score_threshold, self.rider.least_score)

    def relabelled(self, found: Detections, labels: Sequence[str]) -> Detections:
        """
        Turn class ids of the network into those that suppression works on; drop what is not mapped.

        :return: ids below the number of labels are labels. What only the rider rule needs keeps an id above:
            the number of labels plus its own.
        """
        label_ids = {name: list(labels).index(label) for name, label in self.to.items()}
        apart = self._apart()
        table = np.full(len(self.names), -1, dtype=np.int64)
        for number, name in enumerate(self.names):
            if name in apart:  # people and machines keep apart until the rule has seen them
                table[number] = len(labels) + apart[name]
            elif name in label_ids:
                table[number] = label_ids[name]
        ids = table[found.class_ids] if len(found) else found.class_ids
        return dataclasses.replace(found, class_ids=ids).select(ids >= 0)

    def _apart(self) -> dict[str, int]:
        """
        Return the classes that the rider rule needs: name -> number of a class that stands for its like.

        Classes that play the same part and become the same label (Man, Woman) suppress each other.
        """
        if self.rider is None:
            return {}
        first: dict[tuple[str, str], int] = {}
        numbers = {}
        for part in ('person', 'machine', 'other_machine'):
            for name in getattr(self.rider, part):
                number = self.names.index(name)
                numbers[name] = first.setdefault((part, self.to.get(name, '')), number)
        return numbers

    def finished(self, found: Detections, labels: Sequence[str], score_threshold: float) -> Detections:
        """
        Apply the rider rule to what `relabelled` gave and suppression left.

        :return: detections with label ids and at least the threshold, in descending score.
        """
        if self.rider is None:
            return found
        people, ours, others = (self._part(found, part, labels)
                                for part in ('person', 'machine', 'other_machine'))
        machines = Detections.concatenate([ours, others])
        machines, good = machines.above(self.rider.least_score), machines.scores >= self.rider.least_score
        is_ours = np.arange(len(good))[good] < len(ours)
        rides = ridden_machines(people.boxes_xyxy, machines.boxes_xyxy, machines.scores)
        riding = np.flatnonzero(rides >= 0)
        riding = riding[is_ours[rides[riding]]]
        riders = Detections(joined_boxes(people.boxes_xyxy[riding], machines.boxes_xyxy[rides[riding]]),
                            people.scores[riding], np.full(len(riding), list(labels).index(self.rider.label)))
        alone = np.ones(len(machines), dtype=bool)
        alone[rides[rides >= 0]] = False
        rest = Detections.concatenate([
            found.select(found.class_ids < len(labels)), self._plain(people.select(rides < 0), labels),
            self._plain(machines.select(alone), labels), riders])
        return rest.above(score_threshold).by_score()

    def _part(self, found: Detections, part: str, labels: Sequence[str]) -> Detections:
        apart = self._apart()
        numbers = [len(labels) + apart[name] for name in getattr(self.rider, part)]
        return found.select(np.isin(found.class_ids, numbers))

    def _plain(self, found: Detections, labels: Sequence[str]) -> Detections:
        """Give people who ride nothing and machines that nobody rides their labels; drop what has none."""
        targets = np.array([list(labels).index(self.to[name]) if name in self.to else -1
                            for name in self.names])
        ids = targets[found.class_ids - len(labels)] if len(found) else found.class_ids
        return dataclasses.replace(found, class_ids=ids).select(ids >= 0)
