# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Parameters as data: one table a node, the only place of its names, types, defaults, ranges and texts.

Declaration and validation follow from the table here; tools/parameter_files.py writes config/*.yaml and the
tables of the docs from it. A row holds what a leaf of `generate_parameter_library` does: type, default_value,
description, read_only, bounds, one_of. That library generates code in a ROS build, which the wheels lack.

The tables and the checks are plain Python; rclpy is imported only by the functions that talk to a node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any, Literal

from kd_perception.errors import one_line, RosInterfaceError

MAX_STRING_CHARS = 4096
MAX_LIST_ITEMS = 64
# Parameters that ROS itself hands to any node; not typing errors when they are not in a table.
ROS_PARAMETER_PREFIXES = ('use_sim_time', 'qos_overrides.', 'start_type_description_service')


@dataclasses.dataclass(frozen=True)
class ParameterSpec:
    """
    One ROS parameter.

    :param type: `string_list` is a ROS string array.
    :param changes: `live` at any time; `unconfigured` while the node is unconfigured (it takes effect at the
        next configure); `start` only when the process starts (read-only).
    :param minimum, maximum: inclusive bounds of a number.
    :param model_default: a number outside the bounds that stands for `what the model file says`.
    :param choices: the permitted strings.
    :param section: heading in the YAML file that begins with this parameter.
    """

    name: str
    type: Literal['bool', 'int', 'double', 'string', 'string_list']
    default: Any
    description: str
    changes: Literal['live', 'unconfigured', 'start'] = 'unconfigured'
    minimum: float | None = None
    maximum: float | None = None
    model_default: float | None = None
    choices: tuple[str, ...] = ()
    section: str = ''

    @property
    def bounds(self) -> str:
        """Return the permitted values in words, empty where any value of the type will do."""
        text = ''
        if self.choices:
            text = ', '.join(f"'{choice}'" for choice in self.choices)
        elif self.minimum is not None:
            text = f'{_number(self.minimum)} to {_number(self.maximum)}'
        if self.model_default is not None:
            text += f' or {self.model_default:g}'
        return text

    def check(self, value: Any) -> str:
        """Return why `value` is refused, one clause; empty where it is fine."""
        if not _TYPE_CHECKS[self.type](value):
            return f'{self.name}: expected {_TYPE_WORDS[self.type]}, got {value!r:.60}'
        if self.type in ('int', 'double'):
            if not math.isfinite(value):
                return f'{self.name}: {value} is not a finite number'
            if value != self.model_default and self.minimum is not None and \
                    not self.minimum <= value <= self.maximum:
                return f'{self.name}: {value:g} is out of bounds, expected {self.bounds}'
        if self.choices and value not in self.choices:
            return f'{self.name}: {value!r:.60} is unknown, expected one of {self.bounds}'
        if self.type == 'string' and len(value) > MAX_STRING_CHARS:
            return f'{self.name}: {len(value)} characters, expected at most {MAX_STRING_CHARS}'
        if self.type == 'string_list' and len(value) > MAX_LIST_ITEMS:
            return f'{self.name}: {len(value)} entries, expected at most {MAX_LIST_ITEMS}'
        return ''


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f'{value:g}'


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_TYPE_CHECKS: dict[str, Callable[[Any], bool]] = {
    'bool': lambda value: isinstance(value, bool),
    'int': lambda value: isinstance(value, int) and not isinstance(value, bool),
    'double': _is_number,
    'string': lambda value: isinstance(value, str),
    'string_list': lambda value: isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value),
}
_TYPE_WORDS = {'bool': 'true or false', 'int': 'an integer', 'double': 'a number', 'string': 'a string',
               'string_list': 'a list of strings'}


def check_values(table: Sequence[ParameterSpec], values: Mapping[str, Any]) -> str:
    """Return why the first bad one of `values` is refused; empty where all are fine."""
    for spec in table:
        if spec.name in values:
            reason = spec.check(values[spec.name])
            if reason:
                return reason
    return ''


def require_valid(table: Sequence[ParameterSpec], values: Mapping[str, Any],
                  check_combination: Callable[[Mapping[str, Any]], str]) -> None:
    """
    Check values one by one, then together.

    :param check_combination: returns why values are refused together, or nothing.
    :raises RosInterfaceError: one line that names the parameter and what was expected.
    """
    reason = check_values(table, values) or check_combination(values)
    if reason:
        raise RosInterfaceError(f'parameter {reason}')


def declare_parameters(node: Any, table: Sequence[ParameterSpec]) -> dict[str, Any]:
    """
    Declare the table on a node and return the initial values; warn of parameters that no table knows.

    :param node: an rclpy node.
    :raises RosInterfaceError: an override has the wrong type or is refused; the line names the parameter.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, ParameterType
    from rclpy.exceptions import ParameterException

    types = {'bool': ParameterType.PARAMETER_BOOL, 'int': ParameterType.PARAMETER_INTEGER,
             'double': ParameterType.PARAMETER_DOUBLE, 'string': ParameterType.PARAMETER_STRING,
             'string_list': ParameterType.PARAMETER_STRING_ARRAY}
    values = {}
    for spec in table:
        descriptor = ParameterDescriptor(
            name=spec.name, type=types[spec.type], description=spec.description,
            additional_constraints='; '.join(filter(None, (spec.bounds, f'changes: {spec.changes}'))),
            read_only=spec.changes == 'start')
        if spec.minimum is not None:
            # The descriptor's range must let the stand-in for the model's own value through;
            # our own check is the strict one.
            low = min(spec.minimum, spec.minimum if spec.model_default is None else spec.model_default)
            if spec.type == 'int':
                descriptor.integer_range = [
                    IntegerRange(from_value=int(low), to_value=int(spec.maximum), step=0)]
            else:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(low), to_value=float(spec.maximum), step=0.0)]
        try:
            start, given = _start_value(node, spec)
            value = node.declare_parameter(spec.name, start, descriptor, ignore_override=given).value
        except ParameterException as error:
            raise RosInterfaceError(f'parameter {spec.name}: {one_line(error)}') from error
        values[spec.name] = _plain(spec, value)
    reason = check_values(table, values)
    if reason:
        raise RosInterfaceError(f'parameter {reason}')
    for name in _unknown_overrides(node, table):
        node.get_logger().warning(f'parameter {name} is unknown to this node and has no effect')
    return values


def overrides_of(node: Any) -> Mapping[str, Any]:
    """Return what a params file and the command line set on a node, {name: rclpy Parameter}."""
    # No public accessor exists; a release that renames the attribute costs warnings and conveniences.
    return getattr(node, '_parameter_overrides', {})


def _start_value(node: Any, spec: ParameterSpec) -> tuple[Any, bool]:
    """
    Return the value to declare, and whether it stands for the override that was given.

    rclpy takes an override as YAML has typed it: an empty list has no type there, and `1` is no float.
    """
    override = overrides_of(node).get(spec.name)
    if override is not None:
        value = _converted(spec, override.value)
        if value is not override.value:
            return value, True
    return spec.default, False


def _converted(spec: ParameterSpec, value: Any) -> Any:
    """Return a value in the type of its parameter where it loses nothing by it; else the very same value."""
    if spec.type == 'double' and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if spec.type == 'string_list' and (value is None or isinstance(value, (list, tuple)) and not value):
        # What rclpy can tell the type of.
        return ['']
    return value


def _plain(spec: ParameterSpec, value: Any) -> Any:
    """Return a parameter's value as the table's user expects it: what stands for the empty list is empty."""
    if spec.type == 'string_list' and isinstance(value, (list, tuple)):
        return [] if list(value) == [''] else list(value)
    return value


def _unknown_overrides(node: Any, table: Sequence[ParameterSpec]) -> list[str]:
    """
    Return the names that a params file or command line sets on this node and no table knows.

    rclpy ignores them silently, which hides typing errors.
    """
    known = {spec.name for spec in table}
    return sorted(name for name in overrides_of(node)
                  if name not in known and not name.startswith(ROS_PARAMETER_PREFIXES))


def guard_changes(node: Any, table: Sequence[ParameterSpec], is_unconfigured: Callable[[], bool],
                  check: Callable[[dict[str, Any]], str], apply: Callable[[dict[str, Any]], None]) -> None:
    """
    Refuse bad changes with a reason and apply good ones.

    :param check: given all values as they would be, return why the combination is refused, or nothing.
    :param apply: given all values as they are now.
    """
    from rcl_interfaces.msg import SetParametersResult
    from rclpy.parameter import Parameter
    specs = {spec.name: spec for spec in table}

    def values(changed: Sequence[Any] = ()) -> dict[str, Any]:
        current = {name: node.get_parameter(name).value for name in specs}
        current.update({p.name: p.value for p in changed if p.name in specs})
        return {name: _plain(spec, current[name]) for name, spec in specs.items()}

    def on_set(changed: Sequence[Any]) -> Any:
        for parameter in changed:
            spec = specs.get(parameter.name)
            if spec is None:
                continue
            reason = spec.check(parameter.value)
            if not reason and spec.changes == 'unconfigured' and not is_unconfigured():
                reason = (f'{spec.name}: changes only while the node is unconfigured; '
                          'deactivate and clean up first')
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        reason = check(values(changed))
        return SetParametersResult(successful=not reason, reason=reason)

    def before_set(changed: Sequence[Any]) -> list[Any]:
        """Convert what YAML typed otherwise, as at start."""
        return [as_typed(parameter) for parameter in changed]

    def as_typed(parameter: Any) -> Any:
        spec = specs.get(parameter.name)
        value = _converted(spec, parameter.value) if spec else parameter.value
        kinds = {'double': Parameter.Type.DOUBLE, 'string_list': Parameter.Type.STRING_ARRAY}
        return parameter if value is parameter.value else Parameter(spec.name, kinds[spec.type], value)

    if hasattr(node, 'add_pre_set_parameters_callback'):       # not in Humble
        node.add_pre_set_parameters_callback(before_set)
    node.add_on_set_parameters_callback(on_set)
    node.add_post_set_parameters_callback(lambda _: apply(values()))
