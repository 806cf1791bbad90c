# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a camera's diagnostic says, second by second, under an injected clock."""

from dataclasses import replace

import pytest

from kd_perception.health.camera_monitor import CameraLimits, CameraMonitor, SUPERSEDED
from kd_perception.levels import Level

MS, S = 1_000_000, 1_000_000_000
STAGES = {'inference': 20 * MS, 'total': 25 * MS}


class Bench:
    """A monitor and its clock."""

    def __init__(self, **limits):
        self.now_ns = 123 * S
        limits = {'max_age_ns': 0, 'silence_warn_ns': S, 'silence_error_ns': 3 * S, **limits}
        self.monitor = CameraMonitor('front', '/front', CameraLimits(**limits), lambda: self.now_ns)
        self.monitor.set_active(True)

    def run(self, seconds, hz=10, stages=STAGES, drop=None, age_ns=0):
        """Let images flow, with a report each second; return the last."""
        report = None
        for i in range(round(seconds * hz)):
            self.monitor.received(age_ns)
            if drop:
                self.monitor.dropped(drop)
            elif stages:
                self.monitor.processed(stages, 2)
            self.now_ns += round(S / hz)
            if i % hz == hz - 1:
                report = self.report()
        return report

    def idle(self, seconds):
        for _ in range(seconds):
            self.now_ns += S
            report = self.report()
        return report

    def report(self):
        return self.monitor.report()


def values(report):
    return dict(report.values)


def test_waiting_then_active_then_stale():
    bench = Bench()
    assert bench.report().level == Level.OK and bench.report().message == 'waiting'
    report = bench.idle(1)
    assert report.level == Level.WARN and report.message == 'no image yet, waiting for 1.0 s'
    assert values(report)['state'] == 'waiting' and values(report)['image_age_ms'] == 'unknown'
    assert bench.idle(2).level == Level.ERROR
    report = bench.run(5)
    assert (report.level, report.message, report.hardware_id) == (Level.OK, 'active', '/front')
    assert values(report)['rate_hz'] == '10.00' == values(report)['processed_rate_hz']
    assert values(report)['processed'] == '50' and values(report)['detections'] == '100'
    assert values(report)['inference.p50_ms'] == '20.000' and values(report)['total.max_ms'] == '25.000'
    report = bench.idle(1)
    assert report.level == Level.WARN and values(report)['state'] == 'stale'
    assert report.message.startswith('no image for 1.')
    assert bench.idle(2).level == Level.ERROR


def test_a_level_holds_for_a_while_after_its_cause():
    bench = Bench()
    bench.idle(4)
    assert bench.run(1).level == Level.ERROR and '(recovering)' in bench.report().message
    assert bench.run(4).level == Level.OK


def test_inactive_is_no_fault_and_activation_starts_anew():
    bench = Bench()
    bench.idle(10)
    bench.monitor.set_active(False)
    report = bench.idle(10)
    assert (report.level, report.message) == (Level.OK, 'inactive')
    bench.monitor.set_active(True)
    assert bench.report().message == 'waiting'
    assert bench.report().level == Level.OK


def test_superseded_frames_are_reported_and_no_fault():
    bench = Bench()
    for _ in range(5):
        bench.run(1)
        bench.monitor.received(0)
        bench.monitor.dropped(SUPERSEDED)
    report = bench.run(1)
    assert report.level == Level.OK
    assert values(report)['dropped.superseded'] == values(report)['dropped'] == '5'
    assert int(values(report)['received']) == int(values(report)['processed']) + 5


def test_bad_frames_warn_and_are_an_error_when_nothing_passes():
    bench = Bench(sustain_ns=3 * S)
    bench.run(6)
    report = bench.run(1, hz=1, drop='short_data')
    assert report.level == Level.WARN and 'short_data 1' in report.message
    report = bench.run(6, drop='bad_step')
    assert report.level == Level.WARN, 'results of the last 5 s are there no more, but not yet for 3 s'
    report = bench.run(4, drop='bad_step')
    assert report.level == Level.ERROR and values(report)['dropped.bad_step'] == '100'
    assert bench.run(10).level == Level.OK


def test_a_worker_that_is_stuck_is_an_error():
    bench = Bench()
    bench.run(2)
    report = bench.run(4, stages=None)
    assert report.level == Level.ERROR and 'images arrive, but no result for' in report.message
    assert bench.run(4).level == Level.OK


def test_latency_over_budget_warns_and_becomes_an_error_when_sustained():
    bench = Bench(latency_budget_ns=30 * MS, sustain_ns=4 * S)
    assert bench.run(5).level == Level.OK
    slow = {'inference': 90 * MS, 'total': 95 * MS}
    report = bench.run(2, stages=slow)
    assert report.level == Level.WARN and report.message == 'latency 95 ms (95 %) over the budget of 30 ms'
    assert bench.run(5, stages=slow).level == Level.ERROR
    assert bench.run(10).level == Level.OK


@pytest.mark.parametrize('hz,level', [(10, Level.OK), (9, Level.OK), (7, Level.WARN), (4, Level.ERROR)])
def test_expected_rate(hz, level):
    bench = Bench(expected_rate_hz=10.0)
    assert bench.run(4, hz=hz).level == Level.OK, 'a rate needs time to be one'
    assert bench.run(6, hz=hz).level == level


def test_old_images_warn():
    bench = Bench(max_age_ns=S)
    report = bench.run(1, age_ns=5 * S)
    assert report.level == Level.WARN and report.message == 'images arrive 5.0 s after their stamp'
    assert values(report)['image_age_ms'] == '5000.0'


def test_ages_are_clamped_and_unstamped_images_are_no_fault():
    bench = Bench(max_age_ns=S)
    assert values(bench.run(1, age_ns=-10**15))['image_age_ms'] == '0.0'
    report = bench.run(1, age_ns=None)
    assert values(report)['image_age_ms'] == 'unknown' and report.level == Level.OK


def test_a_clock_that_steps_back_raises_nothing():
    bench = Bench(expected_rate_hz=10.0, latency_budget_ns=S)
    bench.run(6)
    bench.now_ns -= 1000 * S
    report = bench.run(6)
    assert report.level == Level.OK


def test_disabled_is_said_and_still_watches_the_camera():
    bench = Bench()
    bench.monitor.set_enabled(False)
    report = bench.run(6, drop='disabled')
    assert (report.level, report.message) == (Level.OK, 'disabled')
    assert bench.idle(4).level == Level.ERROR


def test_limits_can_change_while_images_flow():
    bench = Bench()
    bench.run(5)
    bench.monitor.set_limits(replace(CameraLimits(max_age_ns=0), latency_budget_ns=MS))
    assert bench.run(1).level == Level.WARN


@pytest.mark.parametrize('limits', [
    dict(silence_warn_ns=0), dict(silence_warn_ns=2 * S, silence_error_ns=S), dict(latency_budget_ns=-1),
    dict(expected_rate_hz=-1.0)])
def test_nonsense_limits_are_refused(limits):
    with pytest.raises(ValueError):
        CameraLimits(**limits)
