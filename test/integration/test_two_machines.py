# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A teacher on another machine: two network namespaces with an address each, and a cable that is pulled."""

import contextlib
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import time

import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')
pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')

from ros_harness import REPOSITORY

SCRIPT = Path(__file__).with_name('two_machines.py')
NAMES = tuple(f'kdp{os.getpid() % 100000}{side}' for side in 'ab')


def ip(*arguments):
    return subprocess.run(['ip', *arguments], check=True, capture_output=True, timeout=20).stdout


def wait_until_running(name):
    """
    Wait until the kernel reports a namespace's end of the cable as running.

    That follows up to a second after `up`, and Fast DDS never uses an interface that was not when it started.
    """
    end, state = time.monotonic() + 20, ''
    while state != 'UP':
        assert time.monotonic() < end, f'{name} is {state}'
        shown = ip('-n', name, '-j', 'link', 'show', 'dev', name)
        state = json.loads(shown)[0]['operstate']
        time.sleep(0.02)


@pytest.fixture
def namespaces():
    """Two network namespaces joined by a pair of interfaces; they are named alike."""
    if shutil.which('ip') is None:
        pytest.skip('iproute2 is not installed')
    with contextlib.ExitStack() as stack:
        try:
            for name in NAMES:
                ip('netns', 'add', name)
                stack.callback(ip, 'netns', 'del', name)
            ip('link', 'add', NAMES[0], 'netns', NAMES[0], 'type', 'veth', 'peer', 'name', NAMES[1],
               'netns', NAMES[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f'network namespaces may not be made here: {error.stderr.decode().strip():.200}')
        for name, address in zip(NAMES, ('10.77.0.1/24', '10.77.0.2/24')):
            ip('-n', name, 'address', 'add', address, 'dev', name)
            for interface in ('lo', name):
                ip('-n', name, 'link', 'set', interface, 'up')
        for name in NAMES:
            wait_until_running(name)
        yield NAMES


def test_the_teacher_answers_over_the_network_and_a_pulled_cable_is_survived(namespaces, tmp_path):
    here, there = namespaces
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(
        filter(None, (str(REPOSITORY), os.environ.get('PYTHONPATH'))))}
    done = subprocess.run(
        ['ip', 'netns', 'exec', here, sys.executable, str(SCRIPT), here, there, here, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, timeout=110)
    assert done.returncode == 0, done.stdout[-6000:]
