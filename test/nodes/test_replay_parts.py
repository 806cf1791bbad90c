# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""replay_node's parts that need no ROS: parameters, pacing, serialised images."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from bag_helpers import numbered_image, stamp_of, write_bag
from kd_perception.errors import ImageError, RosInterfaceError
from kd_perception.messages import build as messages
from kd_perception.messages import typestore as ts
from kd_perception.nodes.detector.parameters import DETECTOR_PARAMETERS
from kd_perception.nodes.replay.images import image_cdr, with_stamp
from kd_perception.nodes.replay.pacer import Pacer
from kd_perception.nodes.replay.parameters import check_combination, REPLAY_PARAMETERS, ReplaySettings
from kd_perception.nodes.shared.parameters import check_values
from kd_perception.sources.any_source import decode_image_message, open_source

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = {spec.name: spec.default for spec in REPLAY_PARAMETERS}
SECOND_NS = 1_000_000_000


def test_what_the_launch_file_changes_in_the_detector_is_a_parameter_of_it():
    path = ROOT / 'config' / 'replay_detector.yaml'
    parameters = yaml.safe_load(path.read_text())['/**']['ros__parameters']
    assert check_values(DETECTOR_PARAMETERS, parameters) == ''
    assert set(parameters) <= {spec.name for spec in DETECTOR_PARAMETERS}


@pytest.mark.parametrize('changes,reason', [
    ({}, 'input: is empty'), ({'input': 'x', 'stamps': 'now', 'publish_clock': True}, 'contradict'),
    ({'input': 'x', 'lockstep': 'detections', 'wait_for_subscribers_s': 0.0}, 'needs a subscriber')])
def test_bad_combinations_are_refused(changes, reason):
    assert reason in check_combination({**DEFAULTS, **changes})
    with pytest.raises(RosInterfaceError, match=reason):
        ReplaySettings.from_values({**DEFAULTS, **changes})


def test_settings_are_typed():
    settings = ReplaySettings.from_values({
        **DEFAULTS, 'input': 'x', 'cameras': ['', 'front'], 'lockstep': 'verified_detections',
        'start_offset_s': 1.5, 'clock_rate_hz': 50.0, 'other_topics': ['']})
    assert settings.cameras == ('front',) and settings.lockstep == 'verified_detections'
    assert settings.start_offset_ns == 1_500_000_000 and settings.clock_period_ns == 20_000_000
    assert (settings.duration_ns, settings.max_frames, settings.frame_rate) == (None, None, None)
    assert settings.other_topics == () and not settings.restamp


class TestPacer:
    class Clock:
        now_ns = 5

        def __call__(self):
            return self.now_ns

    def test_the_first_moment_is_due_at_once_and_the_others_in_proportion(self):
        clock = self.Clock()
        pacer = Pacer(2.0, clock)
        assert pacer.due_in_ns(stamp_of(0)) == 0
        assert pacer.due_in_ns(stamp_of(0) + SECOND_NS) == SECOND_NS // 2
        clock.now_ns += 100_000_000
        assert pacer.due_in_ns(stamp_of(0) + SECOND_NS) == 400_000_000
        assert pacer.recorded_now_ns() == stamp_of(0) + 200_000_000

    def test_a_late_player_does_not_shift_the_schedule(self):
        clock = self.Clock()
        pacer = Pacer(1.0, clock)
        pacer.due_in_ns(0)
        clock.now_ns += 3 * SECOND_NS
        assert pacer.due_in_ns(SECOND_NS) == -2 * SECOND_NS
        assert pacer.due_in_ns(4 * SECOND_NS) == SECOND_NS

    def test_a_change_of_speed_makes_no_jump(self):
        clock = self.Clock()
        pacer = Pacer(1.0, clock)
        pacer.due_in_ns(0)
        clock.now_ns += SECOND_NS
        pacer.set_rate(10.0)
        assert pacer.recorded_now_ns() == SECOND_NS
        clock.now_ns += SECOND_NS
        assert pacer.recorded_now_ns() == 11 * SECOND_NS
        assert pacer.due_in_ns(12 * SECOND_NS) == SECOND_NS // 10

    def test_unpaced_time_stands_at_what_was_played_last(self):
        pacer = Pacer(0.0, self.Clock())
        assert pacer.due_in_ns(7) == 0 == pacer.due_in_ns(7 * SECOND_NS)
        pacer.reached(7)
        assert pacer.recorded_now_ns() == 7

    def test_a_loop_begins_at_once(self):
        clock = self.Clock()
        pacer = Pacer(1.0, clock)
        pacer.due_in_ns(100 * SECOND_NS)
        pacer.restart()
        assert pacer.due_in_ns(1) == 0 and pacer.due_in_ns(1 + SECOND_NS) == SECOND_NS


class TestImages:
    @pytest.mark.parametrize('compressed', [True, False])
    def test_a_recorded_message_goes_through_byte_for_byte(self, tmp_path, compressed):
        path = write_bag(tmp_path / 'b.mcap', 2, compressed=compressed)
        with open_source(path) as source:
            for frame in source:
                raw, msgtype = image_cdr(frame, 'compressed' if compressed else 'raw', frame.stamp_ns)
                assert raw is frame.raw_cdr and msgtype == frame.msgtype
                assert image_cdr(frame, 'recorded', frame.stamp_ns)[0] is frame.raw_cdr

    @pytest.mark.parametrize('recorded', [True, False])
    @pytest.mark.parametrize('transport', ['raw', 'compressed'])
    def test_every_transport_shows_the_same_image(self, tmp_path, recorded, transport):
        path = write_bag(tmp_path / 'b.mcap', 2, compressed=recorded)
        with open_source(path) as source:
            frame = list(source)[1]
            raw, msgtype = image_cdr(frame, transport, frame.stamp_ns)
            assert msgtype == (ts.COMPRESSED_IMAGE if transport == 'compressed' else ts.IMAGE)
            assert messages.parse_header(raw) == (stamp_of(1), 'front_optical')
            difference = np.abs(decode_image_message(raw, msgtype).astype(int) - numbered_image(1))
            assert difference.max() <= 6, 'JPEG where it had to be encoded'

    def test_a_png_file_becomes_a_message_as_it_is(self, tmp_path):
        cv2.imwrite(str(tmp_path / 'a.png'), numbered_image(5))
        with open_source(tmp_path) as source:
            raw, msgtype = image_cdr(next(iter(source)), 'compressed', 9)
        assert (tmp_path / 'a.png').read_bytes() in raw
        assert ts.deserialize(raw, msgtype).format == 'png'

    def test_what_cannot_be_decoded_is_an_image_error(self, tmp_path):
        (tmp_path / 'a.png').write_bytes(b'nonsense')
        with open_source(tmp_path) as source, pytest.raises(ImageError):
            image_cdr(next(iter(source)), 'raw', 1)

    @pytest.mark.parametrize('little_endian', [True, False])
    def test_stamps_are_overwritten_in_place(self, little_endian):
        message = messages.raw_image(numbered_image(3), 0, 'front')
        raw = bytes(ts.typestore().serialize_cdr(message, ts.IMAGE, little_endian=little_endian))
        again = with_stamp(raw, stamp_of(7) + 5)
        assert messages.parse_header(again) == (stamp_of(7) + 5, 'front')
        assert len(again) == len(raw) and again[12:] == raw[12:]
        np.testing.assert_array_equal(decode_image_message(again, ts.IMAGE), numbered_image(3))
        assert with_stamp(raw, 0) is raw
