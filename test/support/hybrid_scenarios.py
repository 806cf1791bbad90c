# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What a running hybrid must do, whoever started it: its answers, and its conduct when a part of it fails.

Shared by the subprocess tests and by those of launch_testing. Each scenario takes a client, the fallback's
diagnostics, and where a process must fail the means to make it; each leaves a hybrid that works.
"""

import time

from detector_client import DetectorClient
from hybrid_client import (
    AMBIGUOUS_IMAGE,
    check_promise,
    CLEAR_IMAGE,
    facts_of,
    found_in,
    HybridClient,
    sources,
)

OK, WARN, ERROR = b'\0', b'\1', b'\2'
# A process needs its time to start, and the breaker and the state some to believe in it.
RECOVERY_S = 40.0
# A state must be told within its limit of silence and the period of the diagnostics.
DETECTION_S = 10.0


def wait_state(client: HybridClient, fallback: DetectorClient, state, reason='', timeout_s=DETECTION_S,
               image=AMBIGUOUS_IMAGE):
    """Play on until the diagnostics of the camera tell a state, for a reason; return their status."""
    component = f'camera {client.camera.split("/", 2)[-1] if client.camera[0] == "/" else client.camera}'
    level = {'NOMINAL': (OK, WARN), 'DEGRADED': (WARN,), 'ERROR': (ERROR,)}[state]

    def told():
        status = fallback.status(component)
        fits = status and status.message.startswith(f'{state}: ') and reason in status.message
        return status if fits and status.level in level else None

    def seen():
        status = fallback.status(component)
        return f'{state} ({reason}) of {component}; last: {status and status.message}'
    if image is None:
        return client.probe.wait_for(told, seen, timeout_s)
    return client.keep_showing(told, seen, image, timeout_s)


def wait_source(client: HybridClient, source, unverified='', timeout_s=DETECTION_S, image=AMBIGUOUS_IMAGE):
    """Play on until a frame shown from now on is answered by `source`."""
    before = len(client.provenance)

    def told():
        recent = [facts_of(message) for _, message in client.provenance[before:]]
        return any((f['source'], f['unverified']) == (source, unverified) for f in recent)
    client.keep_showing(told, lambda: f'{source} ({unverified}), got {sources(client)}', image, timeout_s)


def both_answer(client: HybridClient, deadline_ms):
    """A clear frame is the student's, an ambiguous one the teacher's, each with its class names."""
    # Both models are awake once the teacher has answered in time.
    wait_source(client, 'teacher', timeout_s=RECOVERY_S)
    answer = client.show(CLEAR_IMAGE)
    assert answer.facts['source'] == 'student' and [d[0] for d in found_in(answer.result)] == ['Car']
    answer = client.show(AMBIGUOUS_IMAGE)
    if answer.facts['source'] == 'teacher':     # on a busy computer it may miss a deadline
        assert found_in(answer.result)[0][0] == 'Pedestrian'
        assert found_in(answer.result)[0][2:] == (10.0, 20.0, 41.0, 50.0)
    client.wait_answered()
    check_promise(client, deadline_ms)


def teacher_dies_and_returns(client: HybridClient, fallback: DetectorClient, deadline_ms, kill, revive):
    """The student's results go on in time, DEGRADED says why; with a teacher again, NOMINAL."""
    kill()
    status = wait_state(client, fallback, 'DEGRADED', 'breaker')
    assert 'silent' in status.message or 'no good answer in time' in status.message
    assert fallback.status('teacher').level == WARN
    # Nobody waits any more.
    wait_source(client, 'student-no-teacher', 'teacher_unavailable')
    assert client.show(CLEAR_IMAGE).facts['source'] == 'student'
    client.wait_answered()
    check_promise(client, deadline_ms)
    revive()
    wait_source(client, 'teacher', timeout_s=RECOVERY_S)
    wait_state(client, fallback, 'NOMINAL')
    client.wait_answered()
    check_promise(client, deadline_ms)


def student_dies_and_returns(client: HybridClient, fallback: DetectorClient, deadline_ms, kill, revive):
    """ERROR says that images arrive and no results; with a student again, NOMINAL."""
    client.wait_answered()
    check_promise(client, deadline_ms)
    kill()
    wait_state(client, fallback, 'ERROR', 'images arrive, no result of the student')
    revive()
    begin = len(client.sent)
    client.keep_showing(lambda: len(client.sent) > begin and client.answers(client.sent[-1][0]),
                        'a result of the new student, and its answer', timeout_s=RECOVERY_S)
    wait_state(client, fallback, 'NOMINAL', timeout_s=RECOVERY_S)
    # While they find one another, the new student's first results reach one reader and not yet another.
    client.wait_ready()
    both_answer(client, deadline_ms)


def camera_stops_and_returns(client: HybridClient, fallback: DetectorClient, deadline_ms):
    """ERROR says that no image comes; with images again, NOMINAL."""
    client.wait_answered()
    begin = time.monotonic()
    wait_state(client, fallback, 'ERROR', 'no image for', image=None)
    assert time.monotonic() - begin < DETECTION_S
    wait_state(client, fallback, 'NOMINAL', image=CLEAR_IMAGE)
    client.wait_answered()
    check_promise(client, deadline_ms)
