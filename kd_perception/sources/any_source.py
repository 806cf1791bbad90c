# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Camera frames out of anything: a folder of images, a video, a rosbag2 recording.

`open_source` is the one door; whoever consumes frames need not know where they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import functools
from pathlib import Path

import numpy as np

from kd_perception.bags.parts import ROSBAG1
from kd_perception.bags.reader import BagReader, BagTopic, is_bag
from kd_perception.bags.salvage import Record
from kd_perception.errors import BagError, ImageError
from kd_perception.images.compressed import decode_compressed
from kd_perception.images.raw import decode_raw
from kd_perception.messages.build import parse_header
from kd_perception.messages.typestore import COMPRESSED_IMAGE, deserialize, IMAGE
from kd_perception.messages.wire import SerializedImage
from kd_perception.sources.folder_images import is_image_file
from kd_perception.sources.folders import FolderSource, images_in
from kd_perception.sources.frames import Camera, DEFAULT_FPS, Frame, FrameSource
from kd_perception.sources.image_topics import left_out_line, split_topics
from kd_perception.sources.videos import VideoSource

__all__ = ['BagSource', 'Camera', 'FolderSource', 'Frame', 'FrameSource', 'VideoSource', 'camera_of_topic',
           'decode_image_message', 'open_source']


def open_source(path, cameras: Sequence[str] | None = None, fps: float | None = None,
                timestamps: str | Path | None = None) -> FrameSource:
    """
    Open a folder of images, a video or a recording.

    :param path: folder of images (or with a sub-folder per camera), image, video, rosbag2 folder, `.mcap`,
        `.db3`.
    :param cameras: names of cameras, for bags also topics; None takes what is there.
    :param fps: frame rate for a folder without stamps (10 if not given) and in place of a video's own stamps;
        refused for bags, whose stamps are kept.
    :param timestamps: file of stamps for a folder.
    :raises BagError: nothing usable there; the message says what was expected.
    """
    path = Path(path)
    cameras = list(cameras) if cameras else None
    if not path.exists():
        raise BagError(f'{path}: no such folder, video or recording')
    try:
        if is_bag(path) or path.suffix == '.bag':
            if fps is not None or timestamps is not None:
                raise BagError(
                    f'{path}: a recording has stamps of its own; no frame rate or file of stamps applies')
            return BagSource(path, cameras)
        if path.is_dir() and not images_in(path):
            _refuse_ros1_bags(path)
        if path.is_dir() or is_image_file(path):
            stamps = Path(timestamps) if timestamps else None
            return FolderSource(path, cameras, fps or DEFAULT_FPS, stamps)
        if timestamps is not None:
            raise BagError(f'{path}: a video has stamps of its own; no file of stamps applies')
        return VideoSource(path, cameras, fps)
    except OSError as error:
        raise BagError(f'{path}: cannot be read ({error.strerror or error})') from None


def _refuse_ros1_bags(folder: Path) -> None:
    bags = [item.name for item in folder.iterdir() if item.suffix.lower() == ROSBAG1]
    if bags:
        raise BagError(f'{folder}: holds ROS 1 bags ({bags[0]}); convert them first (rosbags-convert)')


def camera_of_topic(topic: str) -> str:
    """
    Return the camera's name of an image topic.

    `/front/image_raw` and `/front/image_raw/compressed` belong to `front`; a topic of another form names its
    camera itself: `/cam0/rgb` is `cam0/rgb`.
    """
    name = topic.strip('/')
    if name.endswith('/compressed'):
        name = name[:-len('/compressed')]
    return name[:-len('/image_raw')] if name.endswith('/image_raw') else name


def decode_image_message(raw: bytes, msgtype: str) -> np.ndarray:
    """
    Decode a CDR `sensor_msgs/Image` or `CompressedImage`.

    :return: (H, W, 3) uint8 BGR.
    :raises ImageError: the message is damaged (`short_data`) or its image cannot be decoded.
    """
    try:
        message = deserialize(raw, msgtype)
    except Exception as error:  # the decoder's errors on hostile bytes are of many kinds
        raise ImageError('short_data', f'not a {msgtype}: {error}') from None
    if msgtype == COMPRESSED_IMAGE:
        return decode_compressed(message.data, message.format)
    return decode_raw(message.encoding, message.height, message.width, message.step, message.is_bigendian,
                      message.data)


def _encoded_of_message(raw: bytes) -> tuple[bytes, str]:
    message = deserialize(raw, COMPRESSED_IMAGE)
    return bytes(message.data), 'png' if 'png' in message.format.lower() else 'jpeg'


class BagSource(FrameSource):
    """
    The camera topics of a rosbag2 recording.

    Header stamps are kept. A message without a stamp (0) gets its log time, and `problems` says how many; so
    does it for messages whose header cannot be read, which are left out and counted in `lost`.

    :param cameras: names or topics; None takes every image topic except depth, masks and drawn ones, which
        `problems` names (see `sources.image_topics`). Of a camera recorded both ways the raw topic is taken.
    :raises BagError: unreadable, no image topic, or a camera that is not there.
    """

    kind = 'bag'

    def __init__(self, path: Path, cameras: Sequence[str] | None = None):
        super().__init__(path)
        self._bag = BagReader(path)
        self.problems = list(self._bag.problems)
        self.lost = self._bag.lost_messages
        try:
            chosen, others = _choose(self._bag, cameras, path)
        except BagError:
            self._bag.close()
            raise
        if others:
            self.note(left_out_line(others))
        self.problems += _renamed_cameras(chosen)
        self._camera_of = {topic.name: name for name, topic in chosen.items()}
        self.cameras = tuple(
            Camera(name, topic.name, topic.msgtype, topic.count) for name, topic in chosen.items())

    @property
    def topics(self) -> dict[str, BagTopic]:
        """Every readable topic of the recording."""
        return self._bag.topics

    def close(self) -> None:
        """Close the recording."""
        self._bag.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in the order of their log times."""
        return (item for item in self.items() if isinstance(item, Frame))

    @property
    def start_ns(self) -> int:
        """Log time of the first message of any topic."""
        return self._bag.start_ns or 0

    def items(self, other: Callable[[str], bool] = lambda topic: False,
              start_ns: int | None = None) -> Iterator[Frame | Record]:
        """
        Yield frames, and of the other topics the records as stored.

        :param other: tells for a topic that is no chosen camera whether to serve it.
        :param start_ns: skip what was logged earlier; frames are numbered from there.
        """
        others = {name for name in self.topics if name not in self._camera_of and other(name)}
        wanted = others.union(self._camera_of)
        index = dict.fromkeys(self._camera_of.values(), 0)
        unstamped = damaged = 0
        for record in self._bag.messages(wanted, start_ns):
            camera = self._camera_of.get(record.topic)
            if camera is None:
                yield record
                continue
            try:
                stamp_ns, frame_id = parse_header(record.raw)
            except BagError:
                damaged += 1
                continue
            if stamp_ns <= 0:
                unstamped += 1
                stamp_ns = record.log_ns
            number, index[camera] = index[camera], index[camera] + 1
            yield Frame(
                camera, stamp_ns, frame_id, f'{number:06d}', number, record.log_ns, record.topic,
                record.msgtype, record.raw,
                _decode=functools.partial(self._decode, record),
                _encoded=functools.partial(_encoded_of_message, record.raw)
                if record.msgtype == COMPRESSED_IMAGE else None)
        self.note_turned()
        if unstamped:
            self.note(f'{unstamped} images had no stamp and got their log time')
        if damaged:
            self.note(f'{damaged} images had an unreadable header and were left out')
        for problem in self._bag.problems:
            self.note(problem)
        self.lost = None if self._bag.lost_messages is None else self._bag.lost_messages + damaged

    def _decode(self, record: Record) -> np.ndarray:
        image = decode_image_message(record.raw, record.msgtype)
        if record.msgtype == COMPRESSED_IMAGE:
            self.note_orientation((record.topic, record.log_ns),
                                  SerializedImage.read(record.raw, compressed=True).data)
        return image


def camera_names(topics: Sequence[str]) -> dict[str, str]:
    """
    Name the camera of each image topic, all differently but for a camera's raw and compressed topic.

    Where two topics would make one name (`/cam/image_raw` and `/cam`), the one in the usual form has it and
    the others get a number: `cam_2`.

    :return: {topic: camera}.
    """
    def base(topic: str) -> str:
        return topic.strip('/').removesuffix('/compressed')

    holders: dict[str, str] = {}
    for topic in sorted(topics, key=lambda item: (not base(item).endswith('/image_raw'), item)):
        plain = name = camera_of_topic(topic)
        number = 2
        while holders.setdefault(name, base(topic)) != base(topic):
            name = f'{plain}_{number}'
            number += 1
    names = {held: name for name, held in holders.items()}
    return {topic: names[base(topic)] for topic in topics}


def _choose(bag: BagReader, cameras: Sequence[str] | None,
            path) -> tuple[dict[str, BagTopic], dict[str, str]]:
    topics = bag.topics
    images = [topic for topic in topics.values() if topic.msgtype in (IMAGE, COMPRESSED_IMAGE)]
    available = ', '.join(f'{topic.name} ({topic.count})' for topic in images) or 'none'
    if cameras is None:
        chosen: dict[str, BagTopic] = {}
        # Sorted by type, the raw topic of a camera comes after the compressed one and takes its place.
        usable, others = split_topics(bag)
        names = camera_names([topic.name for topic in usable])
        for topic in sorted(usable, key=lambda item: (item.msgtype == IMAGE, item.name)):
            chosen[names[topic.name]] = topic
        if not chosen:
            more = f'; {left_out_line(others)}' if others else ''
            raise BagError(f'{path}: no camera topic with messages; image topics: {available}; '
                           f'other topics: {len(topics) - len(images)}{more}')
        return dict(sorted(chosen.items())), others
    chosen = {}
    names = camera_names([topic.name for topic in images])
    for wanted in cameras:
        by_topic = [item for item in images if item.name == '/' + wanted.strip('/')]
        by_name = [item for item in images if names[item.name] == wanted.strip('/')]
        by_name.sort(key=lambda item: (item.count == 0, item.msgtype != IMAGE))
        found = by_topic or by_name if wanted.startswith('/') else by_name or by_topic
        if not found:
            raise BagError(f'{path}: no camera {wanted!r}; image topics: {available}')
        chosen[names[found[0].name]] = found[0]
    return chosen, {}


def _renamed_cameras(chosen: dict[str, BagTopic]) -> list[str]:
    """Say which cameras are not called as their topic has it."""
    return [f"topic {topic.name} is camera {name} here: {camera_of_topic(topic.name)} is another topic's"
            for name, topic in chosen.items() if name != camera_of_topic(topic.name)]
