# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
`models/manifest.yaml`: which model files belong together, pinned by sha256.

::

    format_version: 1
    models:
      teacher:                  # the name that nodes and commands take instead of a path
        file: teacher.onnx      # beside the manifest
        sha256: 64 hexadecimal digits
        size_bytes: 4012345
        labels: [Car, Pedestrian, Cyclist]
        input_hw: [384, 1280]
        licence: ...
        metrics: {...}          # free form, copied from the model's own metadata
        name: ..., promoted_at: ..., reports: {file: sha256}    # in a model store only
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
import re
from typing import Any

import yaml

from kd_perception.config import from_mapping, load_yaml, to_mapping
from kd_perception.errors import ConfigError, ModelError
from kd_perception.files import write_whole
from kd_perception.models.spec import ModelSpec
from kd_perception.models.store import StoreReference

MANIFEST_NAME = 'manifest.yaml'
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class ManifestEntry:
    """One model of the manifest; see the module's text."""

    file: str
    sha256: str
    size_bytes: int
    labels: tuple[str, ...] = ()
    input_hw: tuple[int, int] | None = None
    licence: str = ''
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    name: str = ''
    promoted_at: str = ''
    reports: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Refuse what could point outside the manifest's folder or is no digest."""
        if self.file != Path(self.file).name or self.file in ('', '.', '..'):
            raise ValueError(f'file must be a plain file name, got {self.file!r}')
        if not re.fullmatch(r'[0-9a-f]{64}', self.sha256):
            raise ValueError(f'sha256 must be 64 lower-case hexadecimal digits, got {self.sha256!r}')


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The models of one folder by name."""

    models: dict[str, ManifestEntry]
    format_version: int = FORMAT_VERSION

    def __post_init__(self):
        """Check the version."""
        if self.format_version != FORMAT_VERSION:
            raise ValueError(f'format_version is {self.format_version}, this package reads {FORMAT_VERSION}')

    def entry_for_file(self, file_name: str) -> ManifestEntry | None:
        """Return the entry that names this file, if any."""
        return next((entry for entry in self.models.values() if entry.file == file_name), None)


def load_manifest(folder: str | Path) -> Manifest:
    """
    Read `manifest.yaml` of a folder.

    :raises ConfigError: missing or malformed.
    """
    path = Path(folder) / MANIFEST_NAME
    return from_mapping(Manifest, load_yaml(path), str(path))


def pinned_sha256(model_path: str | Path) -> str | None:
    """
    Return the digest that the manifest beside a model file pins, or None where there is none.

    :raises ModelError: there is a manifest, but it cannot be read: better no model than an
        unchecked one.
    """
    model_path = Path(model_path)
    if not (model_path.parent / MANIFEST_NAME).exists():
        return None
    try:
        entry = load_manifest(model_path.parent).entry_for_file(model_path.name)
    except ConfigError as error:
        raise ModelError(str(error)) from error
    return entry.sha256 if entry else None


def resolve_model(name_or_path: str, models_folder: str | Path) -> Path:
    """
    Find a model by the name that the manifest of `models_folder` gives it, by its path, or in a model store.

    `store:FOLDER#ROLE` is the current version of a role (`detection.model_store`). Anything else that holds a
    path separator or ends in `.onnx` or `.xml` is a path.

    :raises ModelError: the name is empty or unknown; the message lists the known ones. No such store or role.
    """
    if not name_or_path:
        raise ModelError('no model given; expected a path to an ONNX file or a name of the manifest')
    stored = StoreReference.parse(name_or_path)
    if stored is not None:
        return stored.resolve()
    if name_or_path.endswith(('.onnx', '.xml')) or '/' in name_or_path or '\\' in name_or_path:
        return Path(name_or_path)
    try:
        models = load_manifest(models_folder).models
    except ConfigError as error:
        raise ModelError(str(error)) from error
    if name_or_path not in models:
        raise ModelError(
            f'{name_or_path!r} is no model of {Path(models_folder) / MANIFEST_NAME}; '
            f'known: {", ".join(models) or "none"}. A path ends in .onnx or .xml')
    return Path(models_folder) / models[name_or_path].file


def entry_of(file_name: str, content: bytes, spec: ModelSpec) -> ManifestEntry:
    """Return the entry of a model file of this content."""
    return ManifestEntry(
        file_name, hashlib.sha256(content).hexdigest(), len(content), spec.labels, spec.input.hw,
        spec.licence, spec.documents.get('metrics', {}))


def manifest_text(manifest: Manifest) -> str:
    """Return the manifest as YAML; what only a model store says is left out where it is not said."""
    mapping = to_mapping(manifest)
    for entry in mapping['models'].values():
        for key in ('name', 'promoted_at', 'reports'):
            if not entry[key]:
                del entry[key]
    return yaml.safe_dump(mapping, sort_keys=False)


def write_entry(folder: str | Path, name: str, file_name: str, spec: ModelSpec) -> ManifestEntry:
    """
    Add or replace the entry of a model file that lies in `folder`.

    The new manifest replaces the old one in one step, so that a reader never sees half of it.
    """
    folder = Path(folder)
    entry = entry_of(file_name, (folder / file_name).read_bytes(), spec)
    models = load_manifest(folder).models if (folder / MANIFEST_NAME).exists() else {}
    manifest = Manifest({**models, name: entry})
    header = '# Pins each shipped model by sha256; written by `python -m kd_perception export`.\n'
    write_whole(folder / MANIFEST_NAME, header + manifest_text(manifest))
    return entry
