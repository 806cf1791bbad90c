# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`status`: what the nodes report on /diagnostics, live or once (docs/how-to/status.md)."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import contextlib
import json
import os
import shutil
import sys
import time

from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_CHECK_FAILED, EXIT_OK
from kd_perception.levels import Level
from kd_perception.monitoring.board import DiagnosticsBoard
from kd_perception.monitoring.status_view import as_json, GraphStatus, render
from kd_perception.processes.ros_environment import require_ros

HELP = 'Show the state of a running graph: cameras, rates, ages, drops, latency, fallback, who is silent.'
EXAMPLES = """\
  kd_perception status                                      a live table, until Ctrl-C
  kd_perception status --once                               one table; exit code by the worst level
  kd_perception status --once --json --expect student,fallback,teacher | jq .level
exit codes of --once:
  0 OK   1 WARN   3 ERROR, or a node is silent or missing   4 nothing was heard   2 wrong usage"""

EXIT_ERROR, EXIT_NOTHING_HEARD = 3, 4
EXIT_CODES = {Level.OK: EXIT_OK, Level.WARN: EXIT_CHECK_FAILED, Level.ERROR: EXIT_ERROR,
              Level.STALE: EXIT_ERROR}
PERIOD_S = 1.0
# Nodes report once a second, each at its own time: within this, all that live are heard.
ROUND_S = 2.2
FORGET_NS = 3600 * 10**9
CLEAR = '\x1b[H\x1b[J'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--once', action='store_true', help='print one table and end')
    parser.add_argument('--json', action='store_true',
                        help='print JSON with all values, with --once one document, else a line a second')
    parser.add_argument('--expect', default='', metavar='NODE,...',
                        help='nodes that must report; one that does not counts as silent')
    parser.add_argument('--nodes', default='*', metavar='PATTERN,...',
                        help='nodes to show, as fully qualified names with * and ? (default: all)')
    parser.add_argument('--wait', type=float, default=10.0, metavar='SECONDS',
                        help='longest wait for the first report, and with --once for those expected '
                             '(default: %(default)g)')
    parser.add_argument('--stale', type=float, default=3.0, metavar='SECONDS',
                        help='a node without a report for this long is silent (default: %(default)g)')


def run(args: argparse.Namespace) -> int:
    """Listen and show."""
    for name, low in (('wait', 0.0), ('stale', 1.5)):
        if not low <= getattr(args, name) <= 3600.0:
            raise ConfigError(f'--{name}: {getattr(args, name):g}, expected {low:g} to 3600')
    expected = tuple('/' + name.lstrip('/') for name in _names(args.expect))
    board = DiagnosticsBoard(
        time.monotonic_ns, round(args.stale * 1e9), FORGET_NS, _names(args.nodes) or ['*'])
    require_ros('diagnostic_msgs')
    with _listening(board) as (spin, publishers):
        def status() -> GraphStatus:
            views = board.views()
            known = {view.name for view in views}
            return GraphStatus(views, tuple(name for name in expected if name not in known),
                               tuple(sorted(publishers() - known - set(expected))))

        if not spin(args.wait, lambda: bool(board.views())):
            print(f'kd_perception status: nothing was heard on /diagnostics within {args.wait:g} s '
                  f'(ROS_DOMAIN_ID {os.environ.get("ROS_DOMAIN_ID", "0")}): does a node run there?',
                  file=sys.stderr)
            if args.json:
                _show(status(), True, live=not args.once)
            return EXIT_NOTHING_HEARD
        if args.once:
            begin = time.monotonic()
            spin(ROUND_S, lambda: False)
            spin(args.wait - (time.monotonic() - begin), lambda: not status().missing)
            found = status()
            _show(found, args.json, live=False)
            return EXIT_CODES[found.level]
        with contextlib.suppress(KeyboardInterrupt):
            while spin(PERIOD_S, lambda: False) is False:
                _show(status(), args.json, live=True)
        return EXIT_OK


def _listening(board: DiagnosticsBoard) -> contextlib.AbstractContextManager[tuple[Callable, Callable]]:
    from kd_perception.nodes.shared.listener import listening
    return listening(board)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(',') if name.strip()]


def _show(status: GraphStatus, as_lines: bool, live: bool) -> None:
    if as_lines:
        print(json.dumps(as_json(status), indent=None if live else 2), flush=True)
        return
    screen = live and sys.stdout.isatty()
    size = shutil.get_terminal_size()
    text = render(status, screen, size.columns if screen else 0)
    if screen:
        # Longer than the screen, it would scroll and never stand still.
        text = CLEAR + '\n'.join(text.split('\n')[:size.lines - 1])
    print(text, end='' if screen else '\n' * live, flush=True)
