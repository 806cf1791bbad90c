# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests with real processes: each test has its own ROS domain and a hard time limit."""

import faulthandler
from pathlib import Path

import pytest

# pytest-timeout interrupts a test that hangs, and its children are killed. Should the interrupt not get
# through (a hang in C), all stacks are printed and the run ends.
LIMIT_S, HARD_LIMIT_S = 120, 180


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(LIMIT_S))


@pytest.fixture(autouse=True)
def hard_limit():
    """The last net under pytest-timeout."""
    faulthandler.dump_traceback_later(HARD_LIMIT_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def domain():
    """A ROS domain of the test's own."""
    from ros_harness import own_domain
    with own_domain() as domain_id:
        yield domain_id


@pytest.fixture
def probe(domain):
    """The test's own node."""
    from ros_harness import Probe
    probe = Probe(domain)
    yield probe
    probe.close()


@pytest.fixture
def start(domain, tmp_path):
    """Start `python -m MODULE ...`; whatever still runs at the end is killed."""
    from ros_harness import ChildProcess
    children = []

    def start_child(module, *arguments, environment=None):
        children.append(ChildProcess(module, *arguments, folder=tmp_path, environment=environment))
        return children[-1]

    yield start_child
    for child in children:
        child.kill()
        print(f'--- {child.log_path.name}\n{child.log}')     # shown when the test has failed


@pytest.fixture
def model(tmp_path):
    """A model file that finds bright rectangles."""
    from kd_perception.benchmark.rectangle_model import write_rectangle_model
    return write_rectangle_model(tmp_path / 'rectangles.onnx')


@pytest.fixture
def start_detector(start, model):
    """Start detector_node with parameters; strings, numbers, lists and booleans as Python values."""
    def start_node(*extra, name=None, environment=None, **parameters):
        arguments = []
        for key, value in {'model': str(model), 'image_reliability': 'reliable', **parameters}.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            arguments += ['-p', f'{key}:={text}']
        if name:
            arguments += ['-r', f'__node:={name}']
        return start('kd_perception.nodes.detector_node', '--ros-args', *arguments, *extra,
                     environment=environment)
    return start_node
