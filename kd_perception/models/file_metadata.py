# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The metadata of a model file, read without a runtime: what a file needs must be known before it is loaded.

An ONNX file holds them as `metadata_props` of its ModelProto (github.com/onnx/onnx, onnx.proto), an
OpenVINO IR as entries of `rt_info`, the last child of its root.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from kd_perception.errors import ModelError

MAX_XML_BYTES = 1 << 27
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def onnx_metadata(model_bytes: bytes) -> dict[str, str]:
    """Return the metadata of a serialised ONNX model; empty for other bytes (the runtime says why)."""
    found = {}
    try:
        for number, content in _fields(memoryview(model_bytes)):
            if number == _METADATA_PROPS:
                entry = {part: bytes(value).decode() for part, value in _fields(content)}
                found[entry.get(_KEY, '')] = entry.get(_VALUE, '')
    except (ValueError, IndexError):
        return {}
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of the fields of a protobuf message that have a length; skip the others."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            size, position = _varint(message, position)
            if position + size > len(message):
                raise ValueError('cut short')
            yield tag >> 3, message[position:position + size]
            position += size
        else:
            raise ValueError('no protobuf message')


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while shift < 64:
        byte = message[position]
        value |= (byte & 0x7f) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError('a number that does not end')


def ir_root(xml: bytes, path: Path) -> ElementTree.Element:
    """
    Parse the XML of an OpenVINO IR; `path` is how messages name it.

    :raises ModelError: it is none, is too large, or declares entities, which could grow without bound.
    """
    if len(xml) > MAX_XML_BYTES:
        raise ModelError(f'{path}: {len(xml)} bytes, expected an OpenVINO IR of at most {MAX_XML_BYTES}')
    if b'<!DOCTYPE' in xml or b'<!ENTITY' in xml:
        raise ModelError(f'{path}: declares XML entities, which no OpenVINO IR needs')
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ModelError(f'{path}: is not an OpenVINO IR: {error}') from error
    if root.tag != 'net' or root.find('layers') is None:
        raise ModelError(f'{path}: is not an OpenVINO IR: expected <net> with <layers>')
    return root


def ir_metadata(root: ElementTree.Element) -> dict[str, str]:
    """Return the entries of an IR's `rt_info` that hold one value, by their path below it."""
    info = root.find('rt_info')
    return {} if info is None else dict(_entries(info, ''))


def _entries(element: ElementTree.Element, prefix: str) -> Iterator[tuple[str, str]]:
    for child in element:
        name = f'{prefix}{child.tag}'
        if 'value' in child.attrib:
            yield name, child.attrib['value']
        yield from _entries(child, f'{name}/')


def with_ir_metadata(root: ElementTree.Element, entries: Mapping[str, str]) -> bytes:
    """Return the XML of an IR with these entries of `rt_info` set."""
    info = root.find('rt_info')
    if info is None:
        info = ElementTree.SubElement(root, 'rt_info')
    for name, value in entries.items():
        child = info.find(f'./{name}')
        if child is None:
            child = ElementTree.SubElement(info, name)
        child.set('value', value)
    return ElementTree.tostring(root, encoding='utf-8', xml_declaration=True)
