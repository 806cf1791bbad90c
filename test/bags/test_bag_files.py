# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Recordings written and read back, in every shape; other people's readers and writers as oracles."""

from pathlib import Path

from mcap.reader import make_reader
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
import yaml

from bag_helpers import numbered_image, stamp_of, write_bag
from kd_perception.bags.reader import BagReader, is_bag
from kd_perception.bags.writer import BagWriter
from kd_perception.boxes.detections import Detections
from kd_perception.errors import BagError
from kd_perception.files import natural_key
from kd_perception.messages import build as messages
from kd_perception.messages import typestore as ts

SHAPES = [('bag.mcap', None), ('bag.db3', None), ('bag', 'mcap'), ('bag', 'sqlite3')]


@pytest.mark.parametrize('name,storage', SHAPES)
def test_what_is_written_comes_back(tmp_path, name, storage):
    path = write_bag(tmp_path / name, count=5, cameras=('front', 'rear'), storage=storage)
    with BagReader(path) as bag:
        assert {topic.name: (topic.msgtype, topic.count) for topic in bag.topics.values()} == {
            '/front/image_raw': (ts.IMAGE, 5), '/rear/image_raw': (ts.IMAGE, 5)}
        records = list(bag.messages())
        assert [record.log_ns for record in records] == [stamp_of(i) + c for i in range(5) for c in range(2)]
        assert records[3].raw == ts.serialize(
            messages.raw_image(numbered_image(1, camera=1), stamp_of(1) + 1, 'rear_optical'))
        assert (bag.problems, bag.lost_messages, bag.start_ns) == ([], 0, stamp_of(0))
        assert [r.topic for r in bag.messages(['/rear/image_raw'])] == ['/rear/image_raw'] * 5
        late = bag.messages(['/front/image_raw'], stamp_of(3))
        assert [record.log_ns for record in late] == [stamp_of(3), stamp_of(4)]


@pytest.mark.parametrize('name,storage', SHAPES)
def test_rosbags_reads_what_we_write(tmp_path, name, storage):
    path = write_bag(tmp_path / name, count=3, storage=storage)
    with Reader(path) as reader:
        (connection,) = reader.connections
        assert (connection.topic, connection.msgtype) == ('/front/image_raw', ts.IMAGE)
        assert connection.msgcount == 3
        assert connection.msgdef.data
        assert len(list(reader.messages(reader.connections))) == 3


def test_mcap_reads_what_we_write_with_every_definition(tmp_path):
    path = tmp_path / 'out.mcap'
    with BagWriter(path) as writer:
        found = Detections([[1, 2, 3, 4]], [0.5], [0])
        writer.write('/c/detections', messages.detection_array(found, ('Car',), 5, 'c'), 5)
        writer.write('/c/annotations', messages.image_annotations([[1, 2, 3, 4]], [0.5], ['Car'], 5), 5)
    with path.open('rb') as file:
        items = list(make_reader(file).iter_messages())
    assert {schema.name: schema.encoding for schema, _, _ in items} == {
        ts.DETECTION_ARRAY: 'ros2msg', ts.IMAGE_ANNOTATIONS: 'ros2msg'}
    text = next(schema.data.decode() for schema, _, _ in items if schema.name == ts.DETECTION_ARRAY)
    assert 'vision_msgs/Detection2D[] detections' in text and 'MSG: vision_msgs/BoundingBox2D' in text


@pytest.mark.parametrize('mode', [CompressionMode.FILE, CompressionMode.MESSAGE])
@pytest.mark.parametrize('plugin', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_compressed_recordings_are_read(tmp_path, mode, plugin):
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/front/image_raw', ts.IMAGE, typestore=ts.typestore())
        for i in range(4):
            raw = ts.serialize(messages.raw_image(numbered_image(i), stamp_of(i), 'c'))
            writer.write(connection, stamp_of(i), raw)
    with BagReader(tmp_path / 'bag') as bag:
        stamps = [messages.parse_header(record.raw)[0] for record in bag.messages()]
        assert stamps == [stamp_of(i) for i in range(4)]


@pytest.mark.parametrize('name,storage', SHAPES)
def test_an_existing_path_is_refused_unless_overwriting_is_asked_for(tmp_path, name, storage):
    path = write_bag(tmp_path / name, count=2, storage=storage)
    with pytest.raises(BagError, match='exists already'):
        BagWriter(path, storage)
    with BagWriter(path, storage, overwrite=True) as writer:
        writer.write('/a/image_raw', messages.raw_image(numbered_image(0), 1, 'a'), 1)
        with BagReader(path) as old:
            assert list(old.topics) == ['/front/image_raw'], 'the old one stays until the new one is complete'
    with BagReader(path) as new:
        assert list(new.topics) == ['/a/image_raw']
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_an_exception_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError), BagWriter(tmp_path / 'bag.mcap') as writer:
        writer.write('/a/image_raw', messages.raw_image(numbered_image(0), 1, 'a'), 1)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_wrong_use_of_the_writer(tmp_path):
    with pytest.raises(BagError, match='unknown'):
        BagWriter(tmp_path / 'bag', 'rosbag1')
    with pytest.raises(BagError, match='contradicts'):
        BagWriter(tmp_path / 'bag.mcap', 'sqlite3')
    (tmp_path / 'file').write_text('x')
    with pytest.raises(BagError, match='cannot be written'):
        BagWriter(tmp_path / 'file' / 'bag')
    with BagWriter(tmp_path / 'bag') as writer:
        with pytest.raises(BagError, match='not known'):
            writer.write_raw('/x', 'nobody_msgs/msg/Nothing', b'', 1)
        writer.add_topic('/x', ts.IMAGE)
        with pytest.raises(BagError, match='holds sensor_msgs/msg/Image'):
            writer.write_raw('/x', ts.COMPRESSED_IMAGE, b'', 1)


def test_latched_topics_are_told_apart(tmp_path):
    with BagWriter(tmp_path / 'bag') as writer:
        writer.add_topic('/tf_static', 'tf2_msgs/msg/TFMessage', latched=True)
        writer.write('/a/image_raw', messages.raw_image(numbered_image(0), 1, 'a'), 1)
    with BagReader(tmp_path / 'bag') as bag:
        assert {name: topic.latched for name, topic in bag.topics.items()} == {
            '/tf_static': True, '/a/image_raw': False}


def test_metadata_of_an_empty_recording_is_sane(tmp_path):
    with BagWriter(tmp_path / 'bag') as writer:
        writer.add_topic('/a/image_raw', ts.IMAGE)
    info = yaml.safe_load((tmp_path / 'bag' / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    assert info['starting_time']['nanoseconds_since_epoch'] == 0 and info['message_count'] == 0


def test_bags_are_recognised_by_name(tmp_path):
    write_bag(tmp_path / 'bag', count=1)
    (tmp_path / 'images').mkdir()
    (tmp_path / 'crashed').mkdir()
    (tmp_path / 'crashed' / 'crashed_0.mcap').touch()
    assert is_bag(tmp_path / 'bag') and is_bag(tmp_path / 'crashed') and is_bag(tmp_path / 'x.db3')
    assert not is_bag(tmp_path / 'images') and not is_bag(tmp_path / 'x.mp4')


def test_natural_order():
    names = ['a10', 'a9', 'a1b2', 'a1b10', '7', 'b', '']
    assert sorted(names, key=natural_key) == ['', '7', 'a1b2', 'a1b10', 'a9', 'a10', 'b']


@pytest.mark.parametrize('make,told', [
    (lambda path: path / 'nothing', 'no such recording'),
    (lambda path: _file(path / 'old.bag', b'#ROSBAG V2.0\n'), 'ROS 1 bag'),
    (lambda path: _file(path / 'a.txt', b'hello'), 'expected a folder, .mcap or .db3'),
    (lambda path: _file(path / 'a.mcap', b''), 'nothing in this recording can be read'),
    (lambda path: _file(path / 'a.mcap', b'hello world' * 100), 'nothing in this recording can be read'),
    (lambda path: _file(path / 'a.db3', b'hello world' * 100), 'nothing in this recording can be read'),
    (lambda path: _file(path / 'bag' / 'metadata.yaml', b'[]').parent, 'holds no .mcap or .db3 file'),
])
def test_what_is_no_recording_is_one_clear_line(tmp_path, make, told):
    with pytest.raises(BagError, match=told) as caught:
        BagReader(make(tmp_path))
    assert '\n' not in str(caught.value) and str(tmp_path) in str(caught.value)


def _file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_images_in_bags_decode_to_what_was_written(tmp_path):
    path = write_bag(tmp_path / 'b.mcap', count=3, hw=(25, 31))
    with BagReader(path) as bag:
        for i, record in enumerate(bag.messages()):
            message = ts.deserialize(record.raw, record.msgtype)
            np.testing.assert_array_equal(message.data.reshape(25, 31, 3), numbered_image(i, (25, 31)))
