# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Recordings of several parts, as killed recorders and people leave them: each file is read or named."""

from pathlib import Path
import shutil
import sqlite3

from mcap.writer import Writer as McapWriter
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
import yaml

from bag_helpers import numbered_image, stamp_of
from kd_perception.bags import parts as parts_module
from kd_perception.bags.reader import BagReader, is_bag
from kd_perception.bags.writer import BagWriter
from kd_perception.errors import BagError
from kd_perception.messages import build as messages
from kd_perception.messages import typestore as ts
from kd_perception.sources.any_source import open_source

zstd = parts_module.zstd
SUFFIXES = ('.mcap', '.db3')
IN_PART = 4
TOPIC = '/front/image_raw'


def noise(number):
    """Return an image that does not compress, so that a cut of the file is one of its messages too."""
    image = np.random.default_rng(number).integers(0, 256, (200, 320, 3), np.uint8)
    image[..., 0] = number
    return image


def part_of(folder, first, suffix, topic=TOPIC):
    """Return the bytes of a storage file that holds four images."""
    path = folder / f'part{first}{topic.replace("/", "_")}{suffix}'
    with BagWriter(path) as writer:
        for number in range(first, first + IN_PART):
            writer.write(topic, messages.raw_image(noise(number), stamp_of(number), 'f'), stamp_of(number))
    return path.read_bytes()


@pytest.fixture(scope='module', params=SUFFIXES)
def parts(request, tmp_path_factory):
    """Return (suffix, the bytes of three parts)."""
    folder = tmp_path_factory.mktemp('parts')
    return request.param, [part_of(folder, k * IN_PART, request.param) for k in range(3)]


def metadata(names, suffix, mode='FILE', count=12):
    """Return the text of a metadata.yaml that lists some files."""
    return yaml.safe_dump({'rosbag2_bagfile_information': {
        'version': 5, 'storage_identifier': 'mcap' if suffix == '.mcap' else 'sqlite3',
        'relative_file_paths': names, 'compression_mode': mode, 'compression_format': 'zstd',
        'duration': {'nanoseconds': 1}, 'starting_time': {'nanoseconds_since_epoch': 1},
        'message_count': count,
        'topics_with_message_count': [{'message_count': count, 'topic_metadata': {
            'name': TOPIC, 'type': ts.IMAGE, 'serialization_format': 'cdr', 'offered_qos_profiles': ''}}]}})


def lay(folder, files):
    """Write files by name and content."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def numbers(path):
    """Return (numbers of the images served, problems, lost)."""
    with open_source(path) as source:
        served = [int(frame.decode()[0, 0, 0]) for frame in source]
        assert served == [int(frame.decode()[0, 0, 0]) for frame in source], 'a second pass gives the same'
        assert len(set(source.problems)) == len(source.problems)
        return served, ' | '.join(source.problems), source.lost


def renamed(rename, files):
    return {rename(name): data for name, data in files.items()}


def situation(name, suffix, content):
    """Return (files, numbers that can be read, what must be said, lost) of a folder."""
    plain = {f'b_{k}{suffix}': data for k, data in enumerate(content)}
    packed = {f'b_{k}{suffix}.zstd': zstd.compress(data) for k, data in enumerate(content)}
    listed = {'metadata.yaml': metadata(list(packed), suffix)}
    everything, first_last = list(range(12)), [0, 1, 2, 3, 8, 9, 10, 11]
    last, last_packed = f'b_2{suffix}', f'b_2{suffix}.zstd'
    without = 'metadata.yaml is missing'
    return {
        'whole': ({**packed, **listed}, everything, '', 0),
        'killed': ({**dict(list(packed.items())[:2]), last: content[2]}, everything, without, 0),
        'killed while it compressed': (
            {**packed, last: content[2], last_packed: packed[last_packed][:5000], **listed},
            everything, f'{last_packed}: holds the same part as {last}', 0),
        'cut while it was unpacked': (
            {**packed, last: content[2][:len(content[2]) // 3], **listed}, everything,
            f'{last}: holds the same part as {last_packed}', 0),
        'no metadata': (packed, everything, without, 0),
        'one missing': ({**packed, **listed} | {f'b_1{suffix}.zstd': None}, first_last,
                        f'b_1{suffix}.zstd: this file of the recording is missing', 4),
        'unpacked by hand': ({**plain, **listed}, everything, '', 0),
        'upper case': (renamed(str.upper, {**plain, **listed}), everything, '', 0),
        'upper case, packed': (renamed(str.upper, packed), everything, without, 0),
        'zst': (renamed(lambda name: name.replace('.zstd', '.zst'), packed), everything, without, 0),
        'several frames of zstd': (
            {**packed, last_packed: b''.join(map(zstd.compress, (content[2][:777], content[2][777:]))),
             **listed}, everything, '', 0),
        'renamed': (
            {'drive_0' + suffix: content[0], 'drive_1': content[1], 'drive_2.bak': content[2], **listed},
            everything, f'drive_0{suffix}: not named in metadata.yaml, read too', 0),
        'metadata of an earlier split': (
            {**plain, 'metadata.yaml': metadata([f'b_0{suffix}', f'b_1{suffix}'], suffix, '', 8)},
            everything, f'{last}: not named in metadata.yaml, read too', 0),
        'a copy beside it': ({**plain, f'copy of b_1{suffix}': content[1], **listed}, everything,
                             f'copy of b_1{suffix}: left out, it repeats messages of b_1{suffix}', 0),
        'a copy, no metadata': (
            {**plain, f'b_1 (1){suffix}': content[1]}, everything, 'it repeats messages of', 0),
        'a part gone bad': (
            {**plain, f'b_1{suffix}': bytes(9000), **listed}, first_last, f'b_1{suffix}', 4),
        'an empty part': (
            {**packed, f'b_1{suffix}.zstd': b'', **listed}, first_last, f'b_1{suffix}.zstd', 4),
        'packed otherwise': (
            {**plain, f'b_1{suffix}': None, f'b_1{suffix}.gz': b'\x1f\x8b' + bytes(99), **listed}, first_last,
            f'left out: b_1{suffix}.gz', 4),
        'other files': ({**plain, 'notes.txt': b'x', 'notes.pdf': b'', **listed}, everything,
                        '2 files or folders are no part of the recording, left out: notes.pdf, notes.txt', 0),
    }[name]


@pytest.mark.parametrize('name', [
    'whole', 'killed', 'killed while it compressed', 'cut while it was unpacked', 'no metadata',
    'one missing', 'unpacked by hand', 'upper case', 'upper case, packed', 'zst', 'several frames of zstd',
    'renamed', 'metadata of an earlier split', 'a copy beside it', 'a copy, no metadata', 'a part gone bad',
    'an empty part', 'packed otherwise', 'other files'])
def test_each_file_is_read_or_named(tmp_path, parts, name):
    suffix, content = parts
    files, expected, told, lost = situation(name, suffix, content)
    path = lay(tmp_path / 'bag', {item: data for item, data in files.items() if data is not None})
    assert is_bag(path)
    served, problems, counted = numbers(path)
    assert served == expected
    assert told in problems and (problems or not told)
    assert counted == lost or counted is None and 'metadata.yaml' not in files
    if not told:
        assert problems == ''


@pytest.mark.parametrize('share', [0.02, 0.4, 0.8, 0.999])
def test_the_begin_of_a_cut_compressed_part_is_served(tmp_path, parts, share):
    suffix, content = parts
    packed = [zstd.compress(data) for data in content]
    packed[2] = packed[2][:int(share * len(packed[2]))]
    files = {f'b_{k}{suffix}.zstd': data for k, data in enumerate(packed)}
    path = lay(tmp_path / 'bag', {**files, 'metadata.yaml': metadata(list(files), suffix)})
    served, problems, lost = numbers(path)
    assert served == list(range(len(served))) and 8 <= len(served) and lost == 12 - len(served)
    assert f'b_2{suffix}.zstd: the compressed file is cut' in problems
    if suffix == '.db3':    # a database serves what its pages hold, an MCAP file whole chunks
        assert len(served) >= 8 + int(share * IN_PART) - 1
    assert str(Path(parts_module.tempfile.gettempdir())) not in problems


@pytest.mark.parametrize(
    'name', ['a{}', 'A{}', 'renamed', 'renamed.dat', 'a{}.zst', 'a{}.zstd', 'a.zst', 'A{}.ZST'])
def test_a_file_alone_is_known_by_its_content(tmp_path, parts, name):
    suffix, content = parts
    data = zstd.compress(content[0]) if 'zst' in name.lower() else content[0]
    path = tmp_path / name.format(suffix.upper() if name.startswith('A') else suffix)
    path.write_bytes(data)
    assert numbers(path) == ([0, 1, 2, 3], '', 0)


def test_a_write_ahead_log_is_found_under_any_case(tmp_path):
    """What SQLite has not merged lies beside the file, under the file's own name."""
    with BagWriter(tmp_path / 'done.db3') as writer:
        writer.write(TOPIC, messages.raw_image(numbered_image(1), stamp_of(1), 'f'), stamp_of(1))
    live = sqlite3.connect(tmp_path / 'done.db3')
    live.execute('PRAGMA journal_mode=WAL')
    live.execute('INSERT INTO messages (topic_id, timestamp, data) '
                 'SELECT topic_id, timestamp + 1, data FROM messages')
    live.commit()
    (tmp_path / 'bag').mkdir()
    for suffix in ('', '-wal'):
        shutil.copy(tmp_path / f'done.db3{suffix}', tmp_path / 'bag' / f'KILLED.DB3{suffix}')
    live.close()
    with BagReader(tmp_path / 'bag') as bag:
        assert len(list(bag.messages())) == 2 and 'KILLED.DB3-wal' in ''.join(bag.problems)


def test_parts_of_several_recorders_are_merged_by_time(tmp_path):
    for k, topic in enumerate(('/front/image_raw', '/rear/image_raw')):
        (tmp_path / f'{k}.mcap').write_bytes(part_of(tmp_path, 0, '.mcap', topic))
    bag = lay(tmp_path / 'bag', {f'{k}.mcap': (tmp_path / f'{k}.mcap').read_bytes() for k in range(2)})
    with open_source(bag) as source:
        assert [(frame.index, frame.camera) for frame in source] == [
            (number, camera) for number in range(IN_PART) for camera in ('front', 'rear')]


@pytest.mark.parametrize('plugin', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_messages_compressed_one_by_one_need_no_metadata(tmp_path, plugin):
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=plugin)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(TOPIC, ts.IMAGE, typestore=ts.typestore())
        for i in range(4):
            raw = ts.serialize(messages.raw_image(noise(i), stamp_of(i), 'c'))
            writer.write(connection, stamp_of(i), raw)
    (tmp_path / 'bag' / 'metadata.yaml').unlink()
    served, problems, lost = numbers(tmp_path / 'bag')
    assert served == [0, 1, 2, 3] and 'metadata.yaml is missing' in problems and lost == 0


def test_a_damaged_compressed_message_is_counted_once(tmp_path):
    packed = zstd.compress(ts.serialize(messages.raw_image(noise(0), stamp_of(0), 'c')))
    with BagWriter(tmp_path / 'b.mcap') as writer:
        for i, raw in enumerate((packed, packed[:len(packed) // 2], packed[:40] + bytes(40) + packed[80:])):
            writer.write_raw(TOPIC, ts.IMAGE, raw, stamp_of(i))
    served, problems, lost = numbers(tmp_path / 'b.mcap')
    assert (served, lost) == ([0], 2) and 'a compressed message is' in problems


def test_a_bomb_does_not_fill_the_disk(tmp_path, monkeypatch):
    (tmp_path / 'b.mcap.zst').write_bytes(zstd.compress(b'\x89MCAP0\r\n' + bytes(50 << 20)))
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(parts_module, '_RESERVE_BYTES', free - (10 << 20))
    with pytest.raises(BagError, match='no room to unpack it in .*TMPDIR'):
        BagReader(tmp_path / 'b.mcap.zst')


def test_unpacked_files_are_removed(tmp_path, parts, monkeypatch):
    suffix, content = parts
    (tmp_path / 'scratch').mkdir()
    monkeypatch.setattr(parts_module.tempfile, 'tempdir', str(tmp_path / 'scratch'))
    path = lay(tmp_path / 'bag', {f'b{suffix}.zst': zstd.compress(content[0])})
    with BagReader(path) as bag:
        assert len(list(bag.messages())) == IN_PART and list((tmp_path / 'scratch').iterdir())
    assert not list((tmp_path / 'scratch').iterdir())


def foreign_mcap(path, profile, encoding, schema_encoding, types):
    """Write an MCAP file of messages that are not ROS 2's."""
    with path.open('wb') as file:
        writer = McapWriter(file)
        writer.start(profile=profile)
        for topic, name in types.items():
            schema = writer.register_schema(name, schema_encoding, b'')
            channel = writer.register_channel(topic, encoding, schema)
            writer.add_message(channel, 1, b'\x0a\x02hi', 1)
        writer.finish()
    return path


@pytest.mark.parametrize('profile,encoding,schema_encoding', [
    ('', 'protobuf', 'protobuf'), ('', 'json', 'jsonschema'), ('ros1', 'ros1', 'ros1msg'),
    ('ros2', 'cbor', '')])
def test_a_recording_of_another_kind_is_named_as_such(tmp_path, profile, encoding, schema_encoding):
    types = {'/cam': 'foxglove.CompressedImage'}
    path = foreign_mcap(tmp_path / 'a.mcap', profile, encoding, schema_encoding, types)
    with pytest.raises(BagError) as caught:
        open_source(path)
    assert f'no ROS 2 messages (CDR) and are left out: /cam (foxglove.CompressedImage, {encoding})' in str(
        caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['a.bag', 'a.mcap', 'renamed'])
def test_a_ros1_bag_is_named_as_such(tmp_path, name):
    (tmp_path / name).write_bytes(b'#ROSBAG V2.0\n' + bytes(100))
    with pytest.raises(BagError, match=f'{name}: a ROS 1 bag; convert it first'):
        open_source(tmp_path / name)
