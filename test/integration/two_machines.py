# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The hybrid with its teacher on another machine: run in one network namespace, with the teacher in a second.

    python two_machines.py STUDENT_NAMESPACE TEACHER_NAMESPACE LINK FOLDER

STUDENT_NAMESPACE is where this runs; LINK is its end of the cable between the two. Exit code 0: all held.
"""

import os
from pathlib import Path
import subprocess
import sys

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'support'))

from detector_client import DetectorClient
from hybrid_client import check_promise, HybridClient
from kd_perception.benchmark.rectangle_model import draw_rectangles, write_rectangle_model
from ros_harness import ChildProcess, own_domain, Probe, REPOSITORY

# A score of 0.45: in doubt.
IMAGE = draw_rectangles((96, 128), (0, (10, 20, 41, 50), 115))
DEADLINE_MS = 1000.0
# Loopback and shared memory would bypass the cable.
NETWORK_ONLY = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET', 'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}


class Hybrid:
    """Camera and consumer."""

    def __init__(self, probe):
        self.client = HybridClient(probe, student=False, teacher=False)
        self.client.wait_ready()
        self.fallback = DetectorClient(probe, '/fallback')

    def ask(self):
        """Publish an image; return the source of its verified message."""
        return self.client.show(IMAGE).facts['source']

    def ask_until(self, source):
        """Publish until a frame has this source."""
        self.client.probe.wait_for(lambda: self.ask() == source, f'an answer by {source}', timeout_s=40)

    def wait_state(self, state):
        """Publish until the state is this one."""
        self.fallback.wait_status('camera camera', lambda status, values: values.get('state') == state,
                                  f'state {state}', every=self.ask)


def start_teacher(namespace, model, folder):
    """Start the teacher in the other namespace."""
    log = open(folder / 'teacher.log', 'wb')
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(
        filter(None, (str(REPOSITORY), os.environ.get('PYTHONPATH'))))}
    return subprocess.Popen(
        ['ip', 'netns', 'exec', namespace, sys.executable, '-m', 'kd_perception.nodes.detector_node',
         '--ros-args', '-r', '__node:=teacher', '-p', f'model:={model}', '-p', 'cameras:=[camera/teacher]',
         '-p', 'image_reliability:=reliable'],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=folder)


def main(namespace, other, link, folder):
    """Play: the teacher answers over the cable, the cable is pulled, and put back."""
    folder = Path(folder)
    model = write_rectangle_model(folder / 'rectangles.onnx')
    with own_domain() as domain:
        os.environ.update(NETWORK_ONLY)
        nodes = [
            ChildProcess('kd_perception.nodes.detector_node', '--ros-args', '-r', '__node:=student', '-p',
                         f'model:={model}', '-p', 'image_reliability:=reliable', folder=folder),
            ChildProcess('kd_perception.nodes.fallback_node', '--ros-args', '-p', f'student_model:={model}',
                         '-p', 'share:=1.0', '-p', 'audit_share:=0.0', '-p', f'deadline_ms:={DEADLINE_MS}',
                         '-p', 'teacher_timeout_s:=1.5', '-p', 'image_reliability:=reliable', folder=folder)]
        teacher = start_teacher(other, model, folder)
        probe = Probe(domain)
        try:
            hybrid = Hybrid(probe)
            hybrid.ask_until('teacher')
            hybrid.wait_state('NOMINAL')
            subprocess.run(['ip', 'link', 'set', link, 'down'], check=True)
            hybrid.ask_until('student-late-teacher')
            hybrid.wait_state('DEGRADED')
            hybrid.ask_until('student-no-teacher')
            subprocess.run(['ip', 'link', 'set', link, 'up'], check=True)
            hybrid.ask_until('teacher')
            hybrid.wait_state('NOMINAL')
            check_promise(hybrid.client, DEADLINE_MS)
        finally:
            probe.close()
            teacher.kill()
            teacher.wait(10)
            for node in nodes:
                node.kill()
                print(node.log)
            print((folder / 'teacher.log').read_text(errors='replace'))


if __name__ == '__main__':
    main(*sys.argv[1:])
