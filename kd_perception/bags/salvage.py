# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Read what is left of a damaged storage file: a recorder that was killed, a disk that was full, a cut copy.

Both generators walk the file in the order in which it was written, yield what is whole, and append one line
to `problems` for each thing that is not. The order is that of the recorder, not strictly that of the stamps.
"""
from collections.abc import Iterator
from pathlib import Path
import sqlite3
from typing import NamedTuple
from urllib.parse import quote

from mcap.exceptions import EndOfFile
from mcap.records import Channel, Chunk, Message, Schema
from mcap.stream_reader import breakup_chunk, StreamReader
from rosbags.rosbag2.storage_mcap import decompress

# A record longer than this is damage, not data.
MAX_RECORD_BYTES = 2 ** 30


class Record(NamedTuple):
    """One message of a recording as stored."""

    topic: str
    msgtype: str
    log_ns: int
    raw: bytes


def salvage_mcap(path: Path, problems: list[str]) -> Iterator[Record]:
    """
    Yield the readable messages of an MCAP file, with or without index and footer.

    A damaged chunk is skipped where its length is known; a cut ends the reading.
    """
    schemas, channels, foreign = {}, {}, {}
    with path.open('rb') as file:
        records = StreamReader(file, emit_chunks=True, record_size_limit=MAX_RECORD_BYTES).records
        while True:
            offset = file.tell()
            try:
                record = next(records)
            except StopIteration:
                break
            except Exception as error:  # damaged bytes fail in many ways, each ends the reading here
                what = 'the file ends' if isinstance(error, EndOfFile) else f'unreadable ({error})'
                problems.append(f'{path.name}: {what} after byte {offset} of {path.stat().st_size}')
                break
            parts = [record]
            if isinstance(record, Chunk):
                try:
                    data = decompress(record.data, record.compression, record.uncompressed_size,
                                      record.uncompressed_crc)
                    parts = breakup_chunk(Chunk(
                        compression='', data=data, message_end_time=record.message_end_time,
                        message_start_time=record.message_start_time, uncompressed_crc=0,
                        uncompressed_size=len(data)))
                except Exception as error:
                    problems.append(f'{path.name}: the chunk after byte {offset} is damaged ({error}), '
                                    'its messages are lost')
                    continue
                # Within a chunk the writer may have interleaved topics out of order.
                parts.sort(key=lambda part: part.log_time if isinstance(part, Message) else -1)
            for part in parts:
                if isinstance(part, Schema):
                    schemas[part.id] = part.name
                elif isinstance(part, Channel):
                    if part.message_encoding == 'cdr' and part.schema_id in schemas:
                        channels[part.id] = (part.topic, schemas[part.schema_id])
                    elif part.message_encoding != 'cdr':
                        msgtype = schemas.get(part.schema_id, 'no type')
                        foreign[part.topic] = f'{msgtype}, {part.message_encoding}'
                elif isinstance(part, Message) and part.channel_id in channels:
                    yield Record(*channels[part.channel_id], part.log_time, part.data)
    note_foreign(path.name, foreign, problems)


def note_foreign(name: str, foreign: dict[str, str], problems: list[str]) -> None:
    """
    Say which topics of a file hold no ROS 2 messages.

    :param foreign: topic to its type and encoding.
    """
    if foreign:
        some = ', '.join(f'{topic} ({kind})' for topic, kind in sorted(foreign.items())[:3])
        more = ', ...' if len(foreign) > 3 else ''
        problems.append(f'{name}: {len(foreign)} topics hold no ROS 2 messages (CDR) and are left out: '
                        f'{some}{more}; convert the recording first')


def salvage_sqlite3(path: Path, problems: list[str]) -> Iterator[Record]:
    """Yield the readable messages of a rosbag2 sqlite3 file, its write-ahead log included."""
    path = path.resolve()   # the log lies beside the file, not beside a link to it
    # With `immutable` a log beside the file would be ignored, without it a read-only folder refuses the log.
    log = path.with_name(path.name + '-wal')
    mode = 'mode=ro' if log.exists() and log.stat().st_size else 'mode=ro&immutable=1'
    served = 0
    connection = None
    try:
        connection = sqlite3.connect(f'file:{quote(str(path))}?{mode}', uri=True)
        # SQLite refuses a file that is shorter than its header says, except in this mode, meant for recovery.
        connection.execute('PRAGMA writable_schema = ON')
        connection.execute('PRAGMA trusted_schema = OFF')
        topics = {key: (name, kind) for key, name, kind in connection.execute(
            'SELECT id, name, type FROM topics WHERE serialization_format = "cdr"')}
        for topic_id, log_ns, raw in connection.execute(
                'SELECT topic_id, timestamp, data FROM messages ORDER BY id'):
            if topic_id in topics and isinstance(raw, bytes):
                served += 1
                yield Record(*topics[topic_id], log_ns, raw)
    except sqlite3.Error as error:
        problems.append(f'{path.name}: unreadable after message {served} ({error})')
    finally:
        if connection is not None:
            connection.close()
