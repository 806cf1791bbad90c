# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a demo listens to, and what a run of it leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

from kd_perception.demo.plan import NodeSpec
from kd_perception.messages import build as messages
from kd_perception.messages.typestore import deserialize, DIAGNOSTIC_ARRAY

# Topics below a camera's namespace.
STUDENT, TEACHER, VERIFIED, PROVENANCE = (
    'detections', 'teacher/detections', 'verified_detections', 'provenance')


@dataclasses.dataclass(frozen=True)
class DemoRun:
    """
    What a run left behind.

    :param replay: the replay node's report.
    :param results: topic below a camera's namespace (`STUDENT` ...) -> camera -> CDR messages in the order of
        their arrival; `PROVENANCE` holds `DiagnosticArray`, the others `Detection2DArray`.
    :param label_info: namespace of a detector's camera -> CDR `LabelInfo`.
    :param diagnostics: (recorded time at arrival, CDR `DiagnosticArray`).
    :param status: node -> namespace of its camera -> values of its last diagnostic status.
    """

    replay: dict
    results: dict[str, dict[str, list[bytes]]]
    label_info: dict[str, bytes]
    diagnostics: list[tuple[int, bytes]]
    status: dict[str, dict[str, dict[str, str]]]


class Wire:
    """The demo's own subscriptions, and what they tell of the nodes."""

    def __init__(self, node: Any, cameras: Sequence[str], nodes: Sequence[NodeSpec]):
        from diagnostic_msgs.msg import DiagnosticArray

        from kd_perception.nodes.shared.wire_tap import Recorder
        from vision_msgs.msg import Detection2DArray, LabelInfo
        self._node, self._nodes, self._cameras = node, nodes, cameras
        fallback = next((spec for spec in nodes if spec.name == 'fallback'), None)
        self.hybrid = fallback is not None
        self.deadline_s = fallback.parameters['deadline_ms'] / 1e3 if fallback else 0.0
        self._kinds = [STUDENT, *((VERIFIED, PROVENANCE) if self.hybrid else ())]
        if any(spec.name == 'teacher' for spec in nodes):
            self._kinds.append(TEACHER)
        self._namespaces = [name for spec in nodes if spec is not fallback
                            for name in spec.parameters['cameras']]
        labels = [f'/{name}/label_info' for name in self._namespaces]
        topics = {f'/{camera}/{kind}': DiagnosticArray if kind == PROVENANCE else Detection2DArray
                  for kind in self._kinds for camera in cameras}
        self.recorder = Recorder(
            node, {**topics, **dict.fromkeys(labels, LabelInfo), '/diagnostics': DiagnosticArray},
            latched=tuple(labels))

    def ready(self, spec: NodeSpec) -> bool:
        """Whether a node is active and its topics are known here, so that its first frame is not lost."""
        recorder = self.recorder
        if spec.name != 'fallback':
            return all(recorder.of(f'/{name}/label_info') and recorder.publishers(f'/{name}/detections')
                       and self._readers(f'{name}/image_raw') for name in spec.parameters['cameras'])
        own = TEACHER in self._kinds     # this node reads the teacher's answers, too
        return all(
            recorder.publishers(f'/{camera}/{VERIFIED}') and recorder.publishers(f'/{camera}/{PROVENANCE}')
            and self._readers(f'{camera}/image_raw') > 1 and self._readers(f'{camera}/candidates')
            and self._readers(f'{camera}/{TEACHER}') > own for camera in self._cameras)

    def _readers(self, topic: str) -> int:
        return self._node.count_subscribers(f'/{topic}')

    def all_verified(self) -> bool:
        """Whether each result of the student that is here has its verified message and provenance."""
        counts = [[len(self.recorder.of(f'/{camera}/{kind}')) for camera in self._cameras]
                  for kind in (STUDENT, VERIFIED, PROVENANCE)] if self.hybrid else []
        return all(min(answers) >= results for results, *answers in zip(*counts))

    def result(self, report: dict) -> DemoRun:
        """Return all that arrived."""
        of = self.recorder.of
        arrays = [message.raw for message in of('/diagnostics')]
        return DemoRun(
            report, {kind: {camera: [m.raw for m in of(f'/{camera}/{kind}')] for camera in self._cameras}
                     for kind in self._kinds},
            {name: of(f'/{name}/label_info')[-1].raw for name in self._namespaces},
            _stamped(arrays), _last_status(arrays, self._nodes))


def _stamped(arrays: Sequence[bytes]) -> list[tuple[int, bytes]]:
    return [(messages.parse_header(raw)[0], raw) for raw in arrays]


def _last_status(arrays: Sequence[bytes],
                 nodes: Sequence[NodeSpec]) -> dict[str, dict[str, dict[str, str]]]:
    """Return the values of the last status of each node's cameras."""
    wanted = {f'{spec.name}: camera {camera}': (spec.name, camera)
              for spec in nodes for camera in spec.parameters['cameras']}
    found: dict[str, dict[str, dict[str, str]]] = {spec.name: {} for spec in nodes}
    for raw in arrays:
        for status in deserialize(raw, DIAGNOSTIC_ARRAY).status:
            if status.name in wanted:
                name, camera = wanted[status.name]
                found[name][camera] = {pair.key: pair.value for pair in status.values}
    return found
