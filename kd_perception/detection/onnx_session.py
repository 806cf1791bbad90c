# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The one door to onnxruntime: a serialised model becomes a session."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from pathlib import Path
import re
from typing import Any

from kd_perception.detection.graph_ports import GraphPorts, Port
from kd_perception.detection.input_size import InputSize
from kd_perception.errors import ModelError
from kd_perception.processes.cores import thread_count

PROVIDERS = {
    'cpu': 'CPUExecutionProvider',
    'openvino': 'OpenVINOExecutionProvider',    # or OpenVINO's own runtime, where that is installed
    'cuda': 'CUDAExecutionProvider',
    'tensorrt': 'TensorrtExecutionProvider',
}
_NUMPY_TYPES = {
    'tensor(uint8)': 'uint8', 'tensor(float)': 'float32', 'tensor(float16)': 'float16',
    'tensor(int64)': 'int64', 'tensor(int32)': 'int32', 'tensor(bool)': 'bool'}
_EXTERNAL_FOLDER = 'session.model_external_initializers_file_folder_path'
_NO_FOLDER = '/dev/null'
_LACKS = (
    (r'No Op registered for (\S+) with domain_version of (\d+)', 'operator {} of opset {}'),
    (r'Fatal error: (\S+?)\(\S*\) is not a registered function/op', 'operator {}'),
    (r"No opset import for domain '?([^'\s]+)", 'operators of {}'),
    (r'Could not find an implementation for (\S+?)\((\d+)\)', 'operator {} of opset {} for its types'),
    (r'Opset (\d+) is under development', 'opset {}'),
    (r'Unsupported model IR version: (\d+)', 'ONNX IR version {}'),
)


@dataclasses.dataclass(frozen=True)
class ExecutionOptions:
    """
    How onnxruntime runs a model.

    :param threads: threads inside an operator; 0: one for each core that the process may use.
    :param allow_spinning: idle threads poll instead of sleeping: a little faster, and it burns a
        core between frames, so it is off by default.
    :param provider: one of `PROVIDERS`.
    :param allow_cpu_fallback: run on the CPU when the provider is not available, instead of failing.
    :param input_size: what images are fitted into, where the model can have several sizes; see `input_size`.
    """

    threads: int = 1
    allow_spinning: bool = False
    provider: str = 'cpu'
    allow_cpu_fallback: bool = False
    input_size: InputSize = 'camera'

    def __post_init__(self):
        """Check ranges."""
        if not 0 <= self.threads <= 256:
            raise ValueError(f'threads must be in 0..256, got {self.threads}')
        if self.provider not in PROVIDERS:
            raise ValueError(f'provider must be one of {", ".join(PROVIDERS)}, got {self.provider!r}')


def create_session(model_bytes: bytes, options: ExecutionOptions, path: Path,
                   external_data: Mapping[str, bytes] | None = None,
                   fixed_sizes: Mapping[str, int] | None = None) -> Any:
    """
    Return an `onnxruntime.InferenceSession` of a serialised model; `path` is how messages name it.

    :param external_data: content of the files that hold weights, by the name that the model gives them.
    :param fixed_sizes: values of symbolic sizes.
    :raises ModelError: the provider is not available, or the bytes are no model; weights lie in a file
        that is not given.
    """
    # Imported here: the rest of the core works, and imports fast, without it.
    import onnxruntime as ort
    provider = PROVIDERS[options.provider]
    if provider not in ort.get_available_providers():
        if not options.allow_cpu_fallback:
            raise ModelError(
                f'{path}: provider {options.provider!r} is not available in this onnxruntime; available: '
                f'{", ".join(name for name, p in PROVIDERS.items() if p in ort.get_available_providers())}')
        provider = PROVIDERS['cpu']
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = thread_count(options.threads)
    session_options.inter_op_num_threads = 1
    session_options.add_session_config_entry(
        'session.intra_op.allow_spinning', str(int(options.allow_spinning)))
    # Weights come from files that were verified, never from a path that the model names.
    session_options.add_session_config_entry(_EXTERNAL_FOLDER, _NO_FOLDER)
    if external_data:
        names, contents = list(external_data), list(external_data.values())
        session_options.add_external_initializers_from_files_in_memory(names, contents, [*map(len, contents)])
    for name, size in (fixed_sizes or {}).items():
        session_options.add_free_dimension_override_by_name(name, size)
    session_options.log_severity_level = 3
    try:
        return ort.InferenceSession(model_bytes, session_options, providers=[provider])
    except Exception as error:
        raise ModelError(f'{path}: {_load_problem(error, ort.__version__)}') from error


def provider_available(provider: str) -> bool:
    """Whether this onnxruntime can run models there."""
    import onnxruntime as ort
    return PROVIDERS[provider] in ort.get_available_providers()


def session_ports(session: Any) -> GraphPorts:
    """Return inputs and outputs of a session."""
    def port(entry: Any) -> Port:
        return Port(entry.name, _NUMPY_TYPES.get(entry.type, entry.type), tuple(entry.shape))
    return GraphPorts(tuple(map(port, session.get_inputs())), tuple(map(port, session.get_outputs())))


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, at most 300 characters."""
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:300]


def _load_problem(error: Exception, version: str) -> str:
    """Say in one line what keeps a model from loading, naming what is missing where it is known."""
    text = str(error)
    for pattern, name in _LACKS:
        found = re.search(pattern, text)
        if found:
            return f'needs {name.format(*found.groups())}, which this onnxruntime ({version}) lacks'
    if 'External data path' in text:
        return ('its weights lie in a file that its metadata do not name; `model attach` takes them into '
                'the model')
    return f'is not a model that onnxruntime can load: {first_line(error)}'
