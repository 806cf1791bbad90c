# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What launch files share: arguments, how a node is started, what its end means. Needs ROS 2 launch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from launch.actions import DeclareLaunchArgument, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from kd_perception.nodes.shared.launch_arguments import boolean, number, require_file
from kd_perception.transport import image_transport_environment, profiles_file
from launch import LaunchContext

EXIT_REFUSED = 2
# Name: (default, description).
COMMON_ARGUMENTS = {
    'namespace': ('', 'ROS namespace of the nodes; the camera namespaces lie below it.'),
    'image_topic': ('', 'Topics of the images in place of C/image_raw, separated by commas, one for each '
                        'of cameras; or one with {camera}, such as /sensing/{camera}/image_rect. Compressed '
                        'images are on TOPIC/compressed.'),
    'autostart': ('', 'false: the nodes wait for a lifecycle manager. Empty: as in params_file.'),
    'respawn': ('false', 'true: start a node again that ended unasked.'),
    'respawn_delay_s': ('2.0', 'Seconds until it is started again.'),
    'enclave': ('', 'SROS2: node N runs in the enclave ENCLAVE/N (docs/how-to/security.md). Empty: none.'),
    'fastdds_profiles': (
        str(profiles_file()), 'File that lets Fast DDS send large images; FASTRTPS_DEFAULT_PROFILES_FILE or '
                              'FASTDDS_BUILTIN_TRANSPORTS, where set, wins. Empty: its own settings.'),
    'log_level': ('info', 'Least severity that is logged: debug, info, warn, error or fatal.'),
}


def declare(arguments: Mapping[str, tuple[str | None, str]]) -> list[DeclareLaunchArgument]:
    """Declare arguments, given as {name: (default, description)}."""
    return [DeclareLaunchArgument(name, default_value=default, description=text)
            for name, (default, text) in arguments.items()]


def values(context: LaunchContext, names: Iterable[str]) -> dict[str, str]:
    """Return the texts of arguments."""
    return {name: LaunchConfiguration(name).perform(context) for name in names}


def package_node(executable: str, name: str, arguments: Mapping[str, str], params_file: str,
                 parameters: Mapping[str, Any], remappings: Sequence[tuple[str, str]] = (),
                 prefix: str = '', respawn: bool | None = None) -> Node:
    """
    Return a node of this package, with what COMMON_ARGUMENTS say.

    :param params_file: name of the argument that names the file.
    :param parameters: they win over the file. :param respawn: None: as the argument says.
    :raises ValueError: an argument is not what its description says.
    """
    require_file(arguments, params_file)
    if arguments['fastdds_profiles']:
        require_file(arguments, 'fastdds_profiles')
    enclave = arguments['enclave'].rstrip('/')
    if enclave and not enclave.startswith('/'):
        raise ValueError(f'enclave:={enclave}: expected an absolute path such as /vehicle')
    return Node(
        package='kd_perception', executable=executable, name=name, exec_name=name,
        namespace=arguments['namespace'], output='screen', emulate_tty=True, prefix=prefix,
        respawn=boolean(arguments, 'respawn') if respawn is None else respawn,
        respawn_delay=number(arguments, 'respawn_delay_s', 0, 3600),
        additional_env=image_transport_environment(arguments['fastdds_profiles']),
        remappings=list(remappings), parameters=[arguments[params_file], typed(parameters)],
        ros_arguments=['--log-level', arguments['log_level'],
                       *(['--enclave', f'{enclave}/{name}'] if enclave else [])])


def autostart(arguments: Mapping[str, str]) -> dict[str, bool]:
    """Return the parameter that the argument `autostart` sets, if it does."""
    value = boolean(arguments, 'autostart', optional=True)
    return {} if value is None else {'autostart': value}


def typed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters whose texts stay texts: launch would make a number of a folder named 0001."""
    kinds = {str: str, list: list[str]}
    return {name: ParameterValue(value, value_type=kinds[type(value)]) if type(value) in kinds else value
            for name, value in parameters.items()}


def fails_with(node: Node, name: str, alone: bool) -> RegisterEventHandler:
    """
    Let the launch fail where a node cannot work: `ros2 launch` would end with exit code 0 otherwise.

    A node that refuses its arguments when it is first started ends everything. One that was started again
    does not, nor does one that crashes beside others: those work on.

    :param alone: nothing is left to work without this node, and it is not started again.
    """
    ended: list[int] = []

    def on_exit(event: Any, context: LaunchContext) -> None:
        first = not ended
        ended.append(event.returncode)
        if context.is_shutdown:
            return
        if event.returncode == EXIT_REFUSED and first:
            raise RuntimeError(f'{name} refused its arguments; its own line above says why')
        if event.returncode and alone:
            raise RuntimeError(f'{name} has ended with exit code {event.returncode}')
    return RegisterEventHandler(OnProcessExit(target_action=node, on_exit=on_exit))
