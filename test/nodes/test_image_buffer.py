# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Images and results find one another, whichever comes first. Needs no ROS."""

from kd_perception.nodes.fallback.image_buffer import Arrival, BufferedImage, ImageBuffer, MAX_AWAITED

NOTHING = Arrival(None, ())


def image(stamp_ns):
    return BufferedImage(stamp_ns, b'raw', None)


def test_the_image_comes_first():
    buffer = ImageBuffer(3)
    assert [buffer.add(image(stamp)) for stamp in (1, 2, 3, 4)] == [NOTHING] * 4
    assert buffer.take(1) is None, 'the oldest has made room'
    assert buffer.take(3) == image(3)
    assert buffer.take(2) is None and buffer.take(3) is None and buffer.take(4) == image(4)


def test_the_result_comes_first():
    buffer = ImageBuffer(3)
    assert buffer.may_come(5)
    buffer.expect(5, 77)
    assert buffer.add(image(5)) == Arrival(77, ())
    assert buffer.take(5) is None, 'it went to the teacher and is not kept'
    assert not buffer.may_come(5) and not buffer.may_come(4) and buffer.may_come(6)


def test_an_image_that_is_overtaken_is_lost():
    buffer = ImageBuffer(3)
    for stamp in (5, 6, 9):
        buffer.expect(stamp, 10 * stamp)
    buffer.give_up(6)
    assert buffer.add(image(8)) == Arrival(None, (50,))
    assert buffer.add(image(9)) == Arrival(90, ())


def test_stamps_that_fall_wait_for_nothing():
    """A bag that loops: whether an earlier stamp is late or the next round cannot be told."""
    buffer = ImageBuffer(3)
    buffer.add(image(100))
    assert not buffer.may_come(1)
    buffer.add(image(1))
    assert buffer.may_come(2)


def test_memory_is_bounded_and_can_be_cleared():
    buffer = ImageBuffer(1)
    for stamp in range(MAX_AWAITED):
        assert buffer.may_come(stamp)
        buffer.expect(stamp, stamp)
    assert not buffer.may_come(MAX_AWAITED)
    buffer.clear()
    assert buffer.add(image(5)) == NOTHING and buffer.may_come(6)
