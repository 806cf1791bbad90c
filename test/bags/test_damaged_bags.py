# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The recorder was killed, the disk was full, the copy was cut: the rest is served, the loss is told."""

from pathlib import Path
import shutil
import sqlite3

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from bag_helpers import PERIOD_NS, stamp_of, write_bag
from kd_perception.bags.reader import BagReader
from kd_perception.errors import BagError
from kd_perception.messages import build as messages
from kd_perception.messages import typestore as ts
from kd_perception.sources.any_source import open_source

hypothesis = pytest.importorskip('hypothesis', reason='hypothesis is not installed')
st = pytest.importorskip('hypothesis.strategies', reason='hypothesis is not installed')

# Large enough that a recording of 20 spans many chunks (1 MiB) and pages.
HW = (200, 320)
COUNT = 20


def cut(path, share):
    """Keep the first `share` of a file."""
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * share)])
    return path


def numbers_of(bag):
    """Return the numbers of the images that can be read."""
    return [(messages.parse_header(record.raw)[0] - stamp_of(0)) // PERIOD_NS for record in bag.messages()]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """One intact recording of each storage."""
    folder = tmp_path_factory.mktemp('whole')
    for storage in ('mcap', 'sqlite3'):
        write_bag(folder / storage, COUNT, hw=HW, storage=storage)
    return folder


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('share', [0.35, 0.6, 0.9, 0.999])
def test_cut_recording_serves_its_begin_and_counts_the_loss(tmp_path, whole, storage, share):
    bag_path = shutil.copytree(whole / storage, tmp_path / 'bag')
    cut(next(path for path in bag_path.iterdir() if path.suffix in ('.mcap', '.db3')), share)
    with BagReader(bag_path) as bag:
        numbers = numbers_of(bag)
        assert numbers == list(range(len(numbers)))
        # At most one unfinished chunk of 1 MiB, some five images, is lost beyond the cut itself.
        assert share * COUNT - 7 <= len(numbers) <= COUNT
        assert bag.lost_messages == COUNT - len(numbers) == COUNT - bag.topics['/front/image_raw'].count
        assert len(numbers) == COUNT or bag.problems
        assert numbers_of(bag) == numbers, 'a second pass gives the same'


@pytest.mark.parametrize('storage,suffix', [('mcap', '.mcap'), ('sqlite3', '.db3')])
def test_a_cut_single_file_cannot_know_its_loss(tmp_path, whole, storage, suffix):
    source = next((whole / storage).glob('*' + suffix))
    path = cut(Path(shutil.copy(source, tmp_path)), 0.6)
    with open_source(path) as frames:
        numbers = [frame.index for frame in frames]
        assert 3 <= len(numbers) < COUNT and numbers == list(range(len(numbers)))
        assert frames.lost is None and frames.problems


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_recorder_that_did_not_finish_wrote_no_metadata(tmp_path, whole, storage):
    bag_path = shutil.copytree(whole / storage, tmp_path / 'bag')
    (bag_path / 'metadata.yaml').unlink()
    with BagReader(bag_path) as bag:
        assert numbers_of(bag) == list(range(COUNT))
        assert any('metadata.yaml is missing' in problem for problem in bag.problems)


@pytest.mark.parametrize('text', ['', 'rosbag2_bagfile_information: 3', '{', 'a: !!python/object:x.y {}'])
def test_damaged_metadata_does_not_hide_the_messages(tmp_path, whole, text):
    bag_path = shutil.copytree(whole / 'mcap', tmp_path / 'bag')
    (bag_path / 'metadata.yaml').write_text(text)
    with BagReader(bag_path) as bag:
        assert numbers_of(bag) == list(range(COUNT))
        assert any('metadata.yaml' in problem for problem in bag.problems)


def test_a_missing_part_of_a_split_recording_is_told(tmp_path, whole):
    bag_path = shutil.copytree(whole / 'mcap', tmp_path / 'bag')
    text = (bag_path / 'metadata.yaml').read_text()
    file_name = next(bag_path.glob('*.mcap')).name
    listed = f'relative_file_paths:\n  - {file_name}\n'
    assert listed in text
    (bag_path / 'metadata.yaml').write_text(text.replace(listed, listed + '  - b_1.mcap\n'))
    with BagReader(bag_path) as bag:
        assert len(numbers_of(bag)) == COUNT
        assert 'b_1.mcap: this file of the recording is missing' in bag.problems


def test_a_write_ahead_log_is_read_too(tmp_path):
    """A killed rosbag2 recorder leaves the newest messages in the log beside the file."""
    write_bag(tmp_path / 'done.db3', 6)
    live = sqlite3.connect(tmp_path / 'done.db3')
    live.execute('PRAGMA journal_mode=WAL')
    live.execute('PRAGMA wal_autocheckpoint=0')
    live.execute('INSERT INTO messages (topic_id, timestamp, data) '
                 'SELECT topic_id, timestamp + 1, data FROM messages')
    live.commit()
    for suffix in ('', '-wal'):  # what the disk holds at the moment of the kill
        shutil.copy(tmp_path / f'done.db3{suffix}', tmp_path / f'killed.db3{suffix}')
    live.close()
    with BagReader(tmp_path / 'killed.db3') as bag:
        assert bag.topics['/front/image_raw'].count == 12 == len(list(bag.messages()))
        assert any('-wal' in problem for problem in bag.problems)


def test_a_damaged_chunk_costs_its_own_messages_only(tmp_path):
    """Compressed chunks fail to unpack where they are damaged; the ones behind are found."""
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    noise = np.random.default_rng(0)
    with writer:
        connection = writer.add_connection('/front/image_raw', ts.IMAGE, typestore=ts.typestore())
        for i in range(COUNT):
            image = noise.integers(0, 9, (*HW, 3), np.uint8)  # compresses by half
            writer.write(connection, stamp_of(i), ts.serialize(messages.raw_image(image, stamp_of(i), 'c')))
    file = next((tmp_path / 'bag').glob('*.mcap'))
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle:middle + 5000] = bytes(5000)
    file.write_bytes(data)
    with BagReader(tmp_path / 'bag') as bag:
        numbers = numbers_of(bag)
        assert numbers[0] == 0 and numbers[-1] == COUNT - 1 and numbers == sorted(set(numbers))
        assert COUNT - 6 <= len(numbers) < COUNT
        assert bag.lost_messages == COUNT - len(numbers)
        assert any('damaged' in problem for problem in bag.problems)


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """Return the bytes of a small recording of each storage."""
    folder = tmp_path_factory.mktemp('small')
    return {suffix: write_bag(folder / f'a{suffix}', 4, hw=(4, 4)).read_bytes()
            for suffix in ('.mcap', '.db3')}


@pytest.mark.parametrize('suffix', ['.mcap', '.db3'])
@hypothesis.settings(
    max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(data=st.data())
def test_whatever_bytes_lie_there_the_answer_is_messages_or_a_bag_error(tmp_path, small, suffix, data):
    content = bytearray(small[suffix])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        noise = data.draw(st.binary(min_size=1, max_size=40))
        content[at:at + len(noise)] = noise
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(1, len(content))):]
    path = tmp_path / f'fuzz{suffix}'
    path.write_bytes(content)
    try:
        with BagReader(path) as bag:
            for record in bag.messages():
                assert isinstance(record.raw, bytes)
        with open_source(path) as frames:
            list(frames)
    except BagError as error:
        assert '\n' not in str(error)
