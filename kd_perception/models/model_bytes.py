# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Model files: read once, hashed, and never from outside their folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kd_perception.errors import ModelError

# ONNX files are limited to 2 GiB by protobuf.
MAX_MODEL_BYTES = (1 << 31) - 1


def read_model(path: Path, expected_sha256: str | None = None) -> tuple[bytes, str]:
    """
    Read a model file and its sha256.

    :return: (content, hexadecimal digest).
    :raises ModelError: missing, not a regular file, too large, empty, or of another digest.
    """
    try:
        if not path.is_file():
            raise ModelError(f'{path}: no such model file')
        size = path.stat().st_size
        if not 0 < size <= MAX_MODEL_BYTES:
            raise ModelError(f'{path}: {size} bytes, expected 1 to {MAX_MODEL_BYTES}')
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f'{path}: cannot be read ({error.strerror or error})') from error
    digest = hashlib.sha256(content).hexdigest()
    if expected_sha256 and digest != expected_sha256.lower():
        raise ModelError(f'{path}: sha256 is {digest}, expected {expected_sha256.lower()}')
    return content, digest


def read_external_data(path: Path, digests: dict[str, str]) -> dict[str, bytes]:
    """
    Read the files beside a model that hold its weights.

    :param path: of the model. :param digests: sha256 by plain file name, as the model's metadata list them.
    :return: content by file name.
    :raises ModelError: a file is missing or of another digest.
    """
    return {name: read_model(path.parent / name, digest)[0] for name, digest in digests.items()}
