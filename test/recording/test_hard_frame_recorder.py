# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The recorder: bounds, rotation, full disks, failures of the storage, and what its recordings hold."""

import errno
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import threading
import time

from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from hard_frames import Clock, Disk, hard_frame, START_NS
from kd_perception.bags.reader import BagReader
from kd_perception.bags.writer import BagWriter
from kd_perception.errors import BagError, ConfigError
from kd_perception.messages import typestore
from kd_perception.recording import recorder as recorder_module
from kd_perception.recording.frames import MIB, RecorderSettings
from kd_perception.recording.recorded import HardFrameSet
from kd_perception.recording.recorder import DROP_REASONS, HardFrameRecorder
from kd_perception.sources.any_source import decode_image_message

ROOT = Path(__file__).resolve().parents[2]
FIVE_TOPICS = ('detections', 'image_raw', 'provenance', 'teacher/detections', 'verified_detections')


def recorder(folder, clock=None, disk=None, start=True, open_bag=BagWriter, **values):
    values = {'max_rate_hz': 1e9, 'queue_frames': 1000, **values}
    made = HardFrameRecorder(
        RecorderSettings(str(folder), **values), clock or Clock(), disk or Disk(), open_bag)
    if start:
        made.start()
    return made


def record(made, frames):
    """Offer frames one by one, each after the one before is done with."""
    for frame in frames:
        made.offer(frame)
        settle(made)


def settle(made):
    until(lambda: done(made.counts()) == made.counts()['offered'])


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, 'waited too long'
        time.sleep(0.001)


def done(counts):
    return counts['written'] + dropped(counts)


def dropped(counts):
    return sum(counts[f'dropped.{reason}'] for reason in DROP_REASONS)


def on_disk(folder):
    return sum(path.stat().st_size for path in Path(folder).rglob('*') if path.is_file())


def recordings(folder):
    return sorted(path.name for path in Path(folder).iterdir() if path.name.startswith('hard_'))


def test_what_was_offered_is_read_back_by_us_and_by_rosbags(tmp_path):
    frames = [hard_frame(0, '/front/'), hard_frame(1, 'robot/rear', teacher=None), hard_frame(2, 'front')]
    made = recorder(tmp_path)
    assert all(made.offer(frame) for frame in frames)
    assert made.stop(30) and made.problem() == ''
    counts = made.counts()
    assert (counts['written'], counts['files'], counts['deleted_files'], dropped(counts)) == (3, 1, 0, 0)
    assert counts['stored_bytes'] == on_disk(tmp_path)
    bag, = (tmp_path / name for name in recordings(tmp_path))
    expected = [(f'/{camera}/{topic}', START_NS + number * 10 ** 8)
                for number, camera in ((0, 'front'), (1, 'robot/rear'), (2, 'front')) for topic in FIVE_TOPICS
                if (number, topic) != (1, 'teacher/detections')]
    with BagReader(bag) as reader:
        read = list(reader.messages())
        assert not reader.problems
    assert sorted((item.topic, item.log_ns) for item in read) == sorted(expected)
    raws = {(item.topic, item.log_ns): item.raw for item in read}
    assert raws['/front/image_raw', START_NS] == frames[0].image
    assert raws['/robot/rear/detections', START_NS + 10 ** 8] == frames[1].student
    with AnyReader([bag]) as reader:
        seen = [(item.topic, item.msgtype, reader.deserialize(raw, item.msgtype).header.frame_id)
                for item, _, raw in reader.messages()]
    assert len(seen) == len(expected) and {frame_id for *_, frame_id in seen} == {'optical'}
    assert ('/front/provenance', typestore.DIAGNOSTIC_ARRAY, 'optical') in seen


def test_raw_images_become_jpeg_where_asked(tmp_path):
    image = np.full((60, 80, 3), 90, np.uint8)
    made = recorder(tmp_path, jpeg_quality=80)
    record(made, [hard_frame(0, image=image), hard_frame(1, compressed=True)])
    odd = hard_frame(2)
    record(made, [type(odd)(**{**vars(odd), 'image': odd.image.replace(b'bgr8', b'xyz8')})])
    assert made.stop(30) and made.counts()['written'] == 3
    with BagReader(tmp_path / recordings(tmp_path)[0]) as bag:
        assert bag.topics['/front/image_raw/compressed'].count == 2
        assert bag.topics['/front/image_raw'].count == 1, 'what cannot be decoded stays as it came'
        item = next(bag.messages(['/front/image_raw/compressed']))
    assert np.abs(decode_image_message(item.raw, item.msgtype).astype(int) - 90).max() <= 2
    assert len(item.raw) < image.nbytes / 4


def test_a_recording_is_completed_at_its_size_and_the_oldest_makes_room(tmp_path):
    made = recorder(tmp_path, max_total_mib=0.5, max_file_mib=0.2)
    others = [tmp_path / 'hard_notes', tmp_path / 'hard_20260101T000000Z_1', tmp_path / 'session.mcap']
    for path in others[:2]:
        path.mkdir()
        (path / 'metadata.yaml').write_text('mine')
    others[2].write_bytes(b'x' * MIB)
    for number in range(60):
        record(made, [hard_frame(number)])
        ours = sum(on_disk(path) for path in tmp_path.iterdir() if path not in others)
        assert ours <= 0.5 * MIB
    assert made.stop(30)
    counts = made.counts()
    names = [name for name in recordings(tmp_path) if name not in ('hard_notes', others[1].name)]
    assert counts['written'] == 60 and counts['files'] - counts['deleted_files'] == len(names) >= 2
    assert all(on_disk(tmp_path / name) <= 0.2 * MIB for name in names)
    assert all(path.exists() for path in others) and (others[1] / 'metadata.yaml').read_text() == 'mine'
    kept = [frame.key.stamp_ns for name in names for frame in HardFrameSet(tmp_path / name).frames]
    assert kept == [START_NS + number * 10 ** 8 for number in range(60 - len(kept), 60)], 'the newest ones'


def test_rotation_spares_what_somebody_put_into_a_recording(tmp_path):
    made = recorder(tmp_path, max_total_mib=0.2, max_file_mib=0.1)
    record(made, [hard_frame(number) for number in range(5)])
    first = tmp_path / recordings(tmp_path)[0]
    (first / 'notes.txt').write_text('look at the cyclist')
    record(made, [hard_frame(number) for number in range(5, 20)])
    assert made.stop(30)
    assert [path.name for path in first.iterdir()] == ['notes.txt']


def test_a_restart_goes_on_with_the_numbers_and_the_total(tmp_path):
    for _ in range(3):
        made = recorder(tmp_path, max_total_mib=0.25, max_file_mib=0.1)
        record(made, [hard_frame(number) for number in range(8)])
        assert made.stop(30) and on_disk(tmp_path) <= 0.25 * MIB
    before, deleted = recordings(tmp_path), made.counts()['deleted_files']
    made.start()
    while made.counts()['deleted_files'] == deleted:
        record(made, [hard_frame(9)])
    assert made.stop(30) and len(before) > 1 and recordings(tmp_path)[:len(before) - 1] == before[1:]
    numbers = [int(name.rsplit('_', 1)[1]) for name in recordings(tmp_path)]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) and numbers[0] > 3, 'the oldest went first'


def test_a_frame_that_cannot_fit_is_dropped_and_deletes_nothing(tmp_path):
    made = recorder(tmp_path, max_total_mib=0.2, max_file_mib=0.2)
    record(made, [hard_frame(0), hard_frame(1, hw=(300, 300))])
    assert made.counts()['dropped.total_full'] == 1 and 'max_total_mib 0.2' in made.problem()
    record(made, [hard_frame(2)])
    assert made.problem() == '' and made.stop(30)
    counts = made.counts()
    assert (counts['written'], counts['deleted_files']) == (2, 0)


def test_a_full_disk_stops_the_writing_and_space_resumes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, '_WAKE_S', 0.01)
    disk = Disk()
    made = recorder(tmp_path, disk=disk)
    record(made, [hard_frame(0)])
    disk.free = 400 * MIB
    record(made, [hard_frame(1), hard_frame(2)])
    assert made.counts()['dropped.disk_full'] == 2
    assert 'min_free_mib 500' in made.problem() and '400 MiB free' in made.problem()
    assert len(recordings(tmp_path)) == 1, 'what there is, is complete'
    disk.free = 600 * MIB
    until(lambda: made.problem() == '')
    record(made, [hard_frame(3)])
    assert made.stop(30) and made.counts()['written'] == 2


class FullDiskWriter:
    """A writer that runs out of space at the message of a given number."""

    left = 0

    def __init__(self, path):
        self._inner = BagWriter(path)
        self.path = self._inner.path
        self.close, self.abort = self._inner.close, self._inner.abort

    def write_raw(self, *message):
        type(self).left -= 1
        if not type(self).left:
            raise BagError(str(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        self._inner.write_raw(*message)


@pytest.mark.parametrize('fails_at, lost', [(1, 1), (8, 2), (10, 2), (11, 3)])
def test_no_space_in_the_middle_costs_that_recording_only(tmp_path, fails_at, lost):
    FullDiskWriter.left = fails_at
    made = recorder(tmp_path, open_bag=FullDiskWriter)
    record(made, [hard_frame(number) for number in range(lost)])
    counts = made.counts()
    assert (counts['written'], counts['dropped.write_error']) == (0, lost)
    assert 'No space left on device' in made.problem()
    assert [path.name for path in tmp_path.iterdir()] == ['.hard_frames.lock'], 'nothing half-written is left'
    record(made, [hard_frame(number) for number in range(4)])
    assert made.problem() == '' and made.stop(30)
    assert made.counts()['written'] == 4 and len(HardFrameSet(tmp_path).frames) == 4


def test_a_real_disk_that_fills_up_while_a_file_is_closed(tmp_path):
    """/dev/full fails when a buffer is flushed: at the close, which even `abort` cannot do then."""
    class Writer(BagWriter):
        def __init__(self, path):
            super().__init__(path)
            if not path.name.endswith('_000002'):
                self._writer.storage.bio.close()
                self._writer.storage.bio = open('/dev/full', 'wb')

    if not os.path.exists('/dev/full'):
        pytest.skip('/dev/full is Linux')
    made = recorder(tmp_path, open_bag=Writer)
    record(made, [hard_frame(0, hw=(700, 700))])
    assert made.counts()['dropped.write_error'] == 1 and 'No space left' in made.problem()
    assert [path.name for path in tmp_path.iterdir()] == ['.hard_frames.lock']
    record(made, [hard_frame(1)])
    assert made.stop(30) and made.counts()['written'] == 1


def test_a_folder_that_is_none_does_no_harm_and_is_tried_again(tmp_path):
    folder = tmp_path / 'mount'
    folder.write_text('a file')
    made = recorder(folder)
    record(made, [hard_frame(0)])
    assert made.counts()['dropped.write_error'] == 1 and str(folder) in made.problem()
    folder.unlink()
    record(made, [hard_frame(1)])
    assert made.stop(30) and made.counts()['written'] == 1 and made.problem() == ''


def test_a_message_of_a_wrong_kind_is_counted(tmp_path):
    frame = hard_frame(0)
    made = recorder(tmp_path)
    record(made, [type(frame)(**{**vars(frame), 'image_type': 'std_msgs/msg/String'}), hard_frame(1)])
    assert made.stop(30)
    counts = made.counts()
    assert (counts['written'], counts['dropped.write_error']) == (1, 1)


def test_two_recorders_do_not_share_a_folder(tmp_path):
    first, second = recorder(tmp_path), recorder(tmp_path)
    record(first, [hard_frame(0)])
    record(second, [hard_frame(1)])
    assert 'another recorder' in second.problem() and second.counts()['dropped.write_error'] == 1
    assert first.stop(30)
    record(second, [hard_frame(2)])
    assert second.stop(30) and second.counts()['written'] == 1


def test_rate_of_each_camera_and_the_queue_bound_what_is_taken(tmp_path):
    clock = Clock(step_ns=0)
    made = recorder(tmp_path, clock, start=False, max_rate_hz=2.0, queue_frames=3)
    assert not made.offer(hard_frame(0)) and made.counts()['dropped.stopped'] == 1
    hold = threading.Event()
    made._record = lambda frame: hold.wait(60)   # the disk hangs
    made.start()
    taken = [made.offer(hard_frame(0)), made.offer(hard_frame(1)), made.offer(hard_frame(1, 'rear'))]
    clock.now_ns += 499_999_999
    taken.append(made.offer(hard_frame(2)))
    clock.now_ns += 1
    taken.append(made.offer(hard_frame(3)))
    assert taken == [True, False, True, False, True]
    until(lambda: made.counts()['waiting'] == 2)
    clock.now_ns += 10 ** 9
    before = time.monotonic()
    assert [made.offer(hard_frame(4, f'camera{i}')) for i in range(3)] == [True, False, False]
    assert time.monotonic() - before < 1
    counts = made.counts()
    assert (counts['dropped.rate'], counts['dropped.queue_full'], counts['waiting']) == (2, 2, 3)
    assert not made.stop(0.05), 'the thread still hangs'
    counts = made.counts()
    assert (counts['waiting'], counts['dropped.stopped'], counts['offered']) == (0, 4, 9)
    hold.set()
    assert made.stop(30)


def test_a_recording_is_completed_at_its_age(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, '_WAKE_S', 0.01)
    clock = Clock(step_ns=0)
    made = recorder(tmp_path, clock)
    record(made, [hard_frame(0)])
    time.sleep(0.05)
    assert not recordings(tmp_path)
    clock.now_ns += recorder_module.MAX_FILE_AGE_NS
    until(lambda: recordings(tmp_path))
    assert made.stop(30) and made.counts()['files'] == 1


CRASH = """
import sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from hard_frames import hard_frame
from kd_perception.recording.frames import RecorderSettings
from kd_perception.recording.recorder import HardFrameRecorder
made = HardFrameRecorder(RecorderSettings({folder!r}, min_free_mib=0, max_rate_hz=1e9))
made.start()
for number in range(9):
    made.offer(hard_frame(number, hw=(300, 400)))
while made.counts()['written'] < 9:
    time.sleep(0.01)
print('written', flush=True)
time.sleep(60)
"""


def test_what_a_killed_process_leaves_is_put_in_its_place_and_read(tmp_path):
    folder = tmp_path / 'hard'
    script = CRASH.format(root=str(ROOT), tests=str(ROOT / 'test' / 'support'), folder=str(folder))
    with subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == 'written\n'
        process.send_signal(signal.SIGKILL)
    assert not recordings(folder)
    made = recorder(folder)
    record(made, [hard_frame(20)])
    assert made.stop(30)
    left, new = recordings(folder)
    assert left.endswith('_000001') and new.endswith('_000002')
    assert not (folder / left / 'metadata.yaml').exists()
    found = HardFrameSet(folder)
    stamps = [frame.key.stamp_ns for frame in found.frames if frame.key.bag == left]
    # Of 3.2 MB the last chunk, at most 1 MiB and a frame, was still in memory.
    assert stamps == [START_NS + number * 10 ** 8 for number in range(len(stamps))] and len(stamps) >= 6
    assert all(image is not None and image.decode().shape == (300, 400, 3)
               for frame, image in found.images(found.frames) if frame.key.bag == left)
    assert any('metadata.yaml is missing' in problem for problem in found.problems)


def test_a_crash_before_anything_was_written_leaves_nothing(tmp_path):
    (tmp_path / '.hard_20260101T000000Z_000004.abcd1234' / 'hard_20260101T000000Z_000004').mkdir(parents=True)
    made = recorder(tmp_path)
    record(made, [hard_frame(0)])
    assert made.stop(30) and [name[-6:] for name in recordings(tmp_path)] == ['000005']


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.tuples(st.integers(1, 200), st.sampled_from('abc'), st.integers(0, 9)),
                      min_size=5, max_size=20),
       total=st.floats(0.1, 0.4), share=st.floats(0.2, 1))
def test_bounds_and_counts_hold_whatever_is_offered(tmp_path, sizes, total, share):
    folder = tmp_path / 'hard'
    shutil.rmtree(folder, ignore_errors=True)
    disk = Disk()

    class Writer(FullDiskWriter):
        left = 0

    made = recorder(folder, Clock(10 ** 8), disk, open_bag=Writer, max_total_mib=total,
                    max_file_mib=total * share, max_rate_hz=6.0, queue_frames=4)
    for number, (width, camera, event) in enumerate(sizes):
        disk.free = 0 if event == 1 else 1 << 40
        if event == 2:
            Writer.left = 3
        made.offer(hard_frame(number, camera, hw=(100, width)))
        if event > 6:
            settle(made)
            assert not folder.exists() or on_disk(folder) <= total * MIB
    assert made.stop(30)
    counts = made.counts()
    assert counts['offered'] == len(sizes) == done(counts) and counts['waiting'] == 0
    stored = on_disk(folder) if folder.exists() else 0
    assert stored == counts['stored_bytes'] <= total * MIB
    names = recordings(folder) if folder.exists() else []
    assert counts['files'] - counts['deleted_files'] == len(names)
    frames = HardFrameSet(folder).frames if names else []
    assert len(frames) <= counts['written'] and (counts['deleted_files'] or len(frames) == counts['written'])


@pytest.mark.parametrize('values, word', [
    ({'folder': ' '}, 'folder'), ({'max_total_mib': 0}, 'max_total_mib'),
    ({'max_file_mib': 2000}, 'max_file_mib'), ({'min_free_mib': -1}, 'min_free_mib'),
    ({'min_free_mib': float('nan')}, 'min_free_mib'), ({'queue_frames': 0}, 'queue_frames'),
    ({'max_rate_hz': 0}, 'max_rate_hz'), ({'jpeg_quality': 101}, 'jpeg')])
def test_settings_are_checked(values, word):
    with pytest.raises(ConfigError, match=word):
        RecorderSettings(**{'folder': 'x', **values})
