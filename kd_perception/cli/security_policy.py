# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`security-policy`: which topics and services each node of the hybrid may use, as an SROS2 policy."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_OK
from kd_perception.files import write_whole
from kd_perception.output_folder import cannot_be_written

HELP = 'Write an SROS2 policy for the nodes of the hybrid: what each may publish, read and offer.'
EXAMPLES = """\
  kd_perception security-policy --cameras front,rear --out policy.xml
  kd_perception security-policy --cameras front --namespace /robot1        to standard output
  ros2 security create_permission KEYSTORE /kd_perception/student policy.xml"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--cameras', required=True, metavar='NAME,...',
                        help='namespaces of the cameras, separated by commas')
    parser.add_argument('--namespace', default='/', help='namespace of the nodes (default: /)')
    parser.add_argument('--out', type=Path, metavar='FILE', help='file to write (default: standard output)')
    parser.add_argument('--overwrite', action='store_true', help='replace FILE')


def run(args: argparse.Namespace) -> int:
    """Write the policy."""
    from kd_perception.nodes.shared.security_policy import policy_nodes, policy_text
    cameras = [name.strip() for name in args.cameras.split(',') if name.strip()]
    text = policy_text(cameras, args.namespace)
    if args.out is None:
        sys.stdout.write(text)
        return EXIT_OK
    if args.out.exists() and not args.overwrite:
        raise ConfigError(f'{args.out}: exists already; give --overwrite or another --out')
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(args.out, text)
    except OSError as error:
        raise cannot_be_written(args.out, error) from error
    print(f'policy of {", ".join(policy_nodes())} -> {args.out}')
    return EXIT_OK
