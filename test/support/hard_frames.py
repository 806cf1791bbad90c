# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Hard frames made for tests, and a recorder whose disk and clock the test holds."""

import cv2
import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.messages import build as messages
from kd_perception.messages import typestore
from kd_perception.recording.frames import HardFrame

LABELS = ('Car', 'Pedestrian', 'Cyclist')
START_NS = 1_700_000_000_000_000_000
NS_PER_S = 1_000_000_000


def detections_cdr(items, stamp_ns):
    """Serialise [(class id, score, box)]."""
    found = Detections(np.array([box for _, _, box in items], float).reshape(-1, 4),
                       [score for _, score, _ in items], [class_id for class_id, _, _ in items])
    return typestore.serialize(messages.detection_array(found, LABELS, stamp_ns, 'optical'))


def provenance_cdr(stamp_ns, **facts):
    """Serialise a DiagnosticArray of one status with the facts as its values."""
    cls = typestore.message_class
    values = [cls('diagnostic_msgs/msg/KeyValue')(key=key, value=str(value)) for key, value in facts.items()]
    status = cls('diagnostic_msgs/msg/DiagnosticStatus')(
        level=0, name='fallback: front', message='', hardware_id='', values=values)
    return typestore.serialize(cls(typestore.DIAGNOSTIC_ARRAY)(
        header=messages.header(stamp_ns, 'optical'), status=[status]))


def hard_frame(number=0, camera='front', hw=(60, 80), student=(), teacher=(), compressed=False, image=None,
               **facts):
    """Return hard frame `number`, 0.1 s apart; teacher=None: no answer."""
    stamp_ns = START_NS + number * NS_PER_S // 10
    if image is None:
        image = np.random.default_rng(number).integers(0, 255, (*hw, 3), np.uint8)
    if compressed:
        data = cv2.imencode('.jpg', image)[1].tobytes()
        message = messages.compressed_image(data, 'jpeg', stamp_ns, 'optical')
    else:
        message = messages.raw_image(image, stamp_ns, 'optical')
    facts = {'source': 'teacher', 'reason': 'rejected', 'ambiguity': 0.5, 'waited_ms': 41.5, **facts}
    return HardFrame(
        camera, stamp_ns, 'optical', typestore.serialize(message), message.__msgtype__,
        detections_cdr(student, stamp_ns), None if teacher is None else detections_cdr(teacher, stamp_ns),
        detections_cdr(teacher or student, stamp_ns), provenance_cdr(stamp_ns, **facts))


class Disk:
    """Free space that the test decides."""

    def __init__(self, free=1 << 40):
        self.free = free

    def __call__(self, folder):
        return self.free


class Clock:
    """A steady clock that every reading moves on by `step_ns`."""

    def __init__(self, step_ns=NS_PER_S):
        self.now_ns, self.step_ns = 0, step_ns

    def __call__(self):
        self.now_ns += self.step_ns
        return self.now_ns
