# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Mailbox and worker: newest frame wins, cameras in turn, nothing lost silently."""

from collections import Counter
import threading
import time

from hypothesis import given
from hypothesis import strategies as st
import pytest

from kd_perception.nodes.detector.mailbox import Mailbox
from kd_perception.nodes.detector.worker import Worker

LIMIT_S = 10


def test_a_newer_frame_replaces_the_one_that_waits():
    mailbox = Mailbox(['a'])
    assert mailbox.put('a', 1) is None
    assert mailbox.put('a', 2) == 1
    assert mailbox.take(0) == ('a', 2)
    assert mailbox.take(0) is None


def test_cameras_are_served_in_turn():
    mailbox = Mailbox('abc')
    served = []
    for _ in range(6):
        for camera in 'abc':
            mailbox.put(camera, object())
        served.append(mailbox.take(0)[0])
    assert ''.join(served) == 'abcabc'


def test_a_camera_without_a_frame_is_skipped():
    mailbox = Mailbox('abc')
    mailbox.put('c', 1)
    mailbox.put('b', 2)
    assert [mailbox.take(0)[0] for _ in range(2)] == ['b', 'c']
    mailbox.put('b', 3)
    assert mailbox.take(0) == ('b', 3)


def test_unknown_cameras_are_refused():
    with pytest.raises(KeyError):
        Mailbox('ab').put('c', 1)


def test_close_returns_what_waited_and_refuses_more():
    mailbox = Mailbox('ab')
    mailbox.put('b', 1)
    assert mailbox.close() == [('b', 1)]
    assert mailbox.take() is None
    assert mailbox.put('a', 2) == 2
    assert mailbox.close() == []


@given(st.lists(st.tuples(st.sampled_from('abc'), st.booleans())))
def test_every_frame_is_taken_or_returned_exactly_once(steps):
    mailbox = Mailbox('abc', lambda: 0)
    put, out, newest = 0, [], {}
    for camera, take in steps:
        if take:
            taken = mailbox.take(0)
            if taken:
                assert taken[1] == newest[taken[0]], 'only the newest frame of a camera is served'
                out.append(taken[1])
        else:
            put += 1
            newest[camera] = put
            lost = mailbox.put(camera, put)
            out += [lost] if lost is not None else []
    out += [frame for _, frame in mailbox.close()]
    assert sorted(out) == list(range(1, put + 1))


def test_many_threads_lose_nothing():
    mailbox, lost, taken = Mailbox(range(4)), Counter(), Counter()
    done = threading.Barrier(5)

    def produce(camera):
        for i in range(500):
            if mailbox.put(camera, i) is not None:
                lost[camera] += 1
        done.wait(LIMIT_S)

    def consume():
        while True:
            item = mailbox.take(LIMIT_S)
            if item is None:
                return
            taken[item[0]] += 1

    threads = [threading.Thread(target=produce, args=(i,), daemon=True) for i in range(4)]
    consumer = threading.Thread(target=consume, daemon=True)
    for thread in [*threads, consumer]:
        thread.start()
    done.wait(LIMIT_S)
    for camera, _ in mailbox.close():
        lost[camera] += 1
    consumer.join(LIMIT_S)
    assert not consumer.is_alive()
    assert {camera: lost[camera] + taken[camera] for camera in range(4)} == dict.fromkeys(range(4), 500)


SECOND_NS = 1_000_000_000


class Regular:
    """A mailbox whose camera `a` has sent a frame (its number) every 10 s so far."""

    def __init__(self, cameras='a', frames=6):
        self.now_ns = 0
        self.mailbox = Mailbox(cameras, lambda: self.now_ns)
        for i in range(frames):
            self.now_ns = i * 10 * SECOND_NS
            self.mailbox.put('a', i)

    def take_at(self, seconds_after_last, meanwhile=None):
        """Take; `meanwhile` runs on another thread once the consumer waits."""
        self.now_ns += round(seconds_after_last * SECOND_NS)
        if meanwhile:
            # The lock is free for others only before `take` has it and while it waits inside.
            thread = threading.Timer(0.05, meanwhile)
            thread.start()
        begin = time.monotonic()
        taken = self.mailbox.take(LIMIT_S)
        if meanwhile:
            thread.join(LIMIT_S)
        return taken, time.monotonic() - begin


@pytest.fixture
def long_patience(monkeypatch):
    monkeypatch.setattr('kd_perception.nodes.detector.mailbox.MAX_PATIENCE_NS', LIMIT_S * SECOND_NS)


@pytest.mark.parametrize('after_s', [8.1, 9.9, 10.5])
def test_a_frame_about_to_be_replaced_waits_for_its_successor(long_patience, after_s):
    regular = Regular()
    taken, _ = regular.take_at(after_s, meanwhile=lambda: regular.mailbox.put('a', 'new'))
    assert taken == ('a', 'new')


def test_patience_ends_and_the_old_frame_is_taken():
    taken, waited_s = Regular().take_at(9.9)
    assert taken == ('a', 5) and waited_s >= 0.045


@pytest.mark.parametrize('regular,after_s', [
    (Regular(), 0.0), (Regular(), 5.0), (Regular(), 7.9),       # fresh enough
    (Regular(), 11.1), (Regular(), 100.0),                      # the camera has stopped
    (Regular(frames=5), 9.9)])                                  # too little known
def test_otherwise_a_frame_is_taken_at_once(monkeypatch, regular, after_s):
    monkeypatch.setattr(
        regular.mailbox._condition, 'wait_for',
        lambda condition, timeout=None: condition() or pytest.fail('waited'))
    assert regular.take_at(after_s)[0][0] == 'a'


def test_another_cameras_frame_is_not_kept_waiting(monkeypatch):
    regular = Regular('ab')
    regular.mailbox.put('b', 'other')
    monkeypatch.setattr(
        regular.mailbox._condition, 'wait_for',
        lambda condition, timeout=None: condition() or pytest.fail('waited'))
    assert regular.take_at(9.9)[0] == ('a', 5)
    assert regular.mailbox.take(0) == ('b', 'other')


def test_another_cameras_frame_ends_the_wait(long_patience):
    regular = Regular('ab')
    taken, _ = regular.take_at(9.9, meanwhile=lambda: regular.mailbox.put('b', 'other'))
    assert taken == ('a', 5)


def test_closing_ends_the_wait(long_patience):
    regular, left = Regular(), []
    taken, _ = regular.take_at(9.9, meanwhile=lambda: left.extend(regular.mailbox.close()))
    assert taken is None and left == [('a', 5)]


def test_worker_goes_on_after_an_error():
    mailbox, seen, errors, done = Mailbox('a'), [], [], threading.Event()
    handled = threading.Semaphore(0)

    def process(camera, frame):
        try:
            seen.append((camera, frame))
            if frame == 'bad':
                raise RuntimeError('no')
            done.set()
        finally:
            handled.release()

    worker = Worker(mailbox, process, lambda camera, error: errors.append((camera, str(error))))
    worker.start()
    mailbox.put('a', 'bad')
    assert handled.acquire(timeout=LIMIT_S)
    mailbox.put('a', 'good')
    assert done.wait(LIMIT_S)
    assert worker.stop(LIMIT_S) == ([], True)
    assert seen == [('a', 'bad'), ('a', 'good')] and errors == [('a', 'no')]


def test_worker_stop_returns_waiting_frames_and_tells_of_a_hang():
    mailbox, begun, free = Mailbox('ab'), threading.Event(), threading.Event()

    def process(camera, frame):
        begun.set()
        free.wait(LIMIT_S)

    worker = Worker(mailbox, process, lambda *_: None)
    worker.start()
    mailbox.put('a', 1)
    assert begun.wait(LIMIT_S)
    mailbox.put('b', 2)
    assert worker.stop(0.0) == ([('b', 2)], False)
    free.set()
    assert worker.stop(LIMIT_S) == ([], True)


def test_a_worker_that_never_started_can_be_stopped():
    assert Worker(Mailbox('a'), print, print).stop(0.0) == ([], True)
