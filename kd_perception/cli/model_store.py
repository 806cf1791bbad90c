# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`model promote`, `rollback`, `history`, `prune`, `swap`: a store of versions, and nodes that follow it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
import sys

from kd_perception.config import to_mapping
from kd_perception.errors import ModelError, PromotionRefused
from kd_perception.evaluation.report.promotion import promote, roll_back
from kd_perception.exit_codes import EXIT_CHECK_FAILED, EXIT_OK
from kd_perception.models.history import history_lines
from kd_perception.models.store import ModelStore, ROLES, SCHEME, StoreReference

ACTIONS = ('promote', 'rollback', 'history', 'prune', 'swap')
EXAMPLES = """\
  kd_perception model promote --store models --model new.onnx --report compare.json \\
      --node /student --node /fallback       a running system takes it over, without a gap
  kd_perception model rollback --store models --node /student --node /fallback
  kd_perception model history --store models
  kd_perception model swap store:models#student --node /student"""


def add_arguments(actions: argparse._SubParsersAction) -> None:
    """Declare the commands' arguments."""
    promote_parser = actions.add_parser(
        'promote', help='make a model the current version of a store; exit code 1 if its verdict is no')
    promote_parser.add_argument('--model', required=True, type=Path, metavar='NEW.onnx')
    promote_parser.add_argument(
        '--report', required=True, type=Path, metavar='COMPARE.json',
        help='what `evaluate compare --verdict` wrote; for the first model of a role its report.json')
    promote_parser.add_argument('--allow-input-change', action='store_true',
                                help="the input's size may be another than the current model's")
    rollback = actions.add_parser('rollback', help='make an earlier version current again')
    rollback.add_argument('--to', type=int, metavar='VERSION',
                          help='default: the one that was current before this one was promoted')
    history = actions.add_parser('history', help='versions of a store, and how each became current')
    history.add_argument('--json', action='store_true', help='print one JSON document instead of a table')
    prune = actions.add_parser('prune', help='remove versions that are not current')
    prune.add_argument('--version', required=True, type=int, action='append', metavar='VERSION',
                       help='may be repeated')
    for parser in (promote_parser, rollback, history, prune):
        parser.add_argument('--store', required=True, type=Path, metavar='DIR', help="the store's folder")
        parser.add_argument('--role', choices=ROLES, default=None if parser is history else 'student',
                            help='default: ' + ('all' if parser is history else 'student'))
    swap = actions.add_parser('swap', help='have running nodes take another model; exit code 1 if one fails')
    swap.add_argument('model', help='as the parameter `model` of detector_node, as the node sees it')
    for parser in (promote_parser, rollback, swap):
        parser.add_argument(
            '--node', action='append', default=[], required=parser is swap, metavar='NAME',
            help='running detector_node (or fallback_node) that takes it over, one after another in this '
                 'order; may be repeated')
        parser.add_argument('--timeout', type=float, default=60.0, metavar='S',
                            help='how long each node has for it (default: 60)')


def run(args: argparse.Namespace) -> int:
    """Run one of `ACTIONS`."""
    return {'promote': _promote, 'rollback': _rollback, 'history': _history, 'prune': _prune,
            'swap': _swap_to}[args.action](args)


def _promote(args: argparse.Namespace) -> int:
    store = ModelStore(args.store)
    try:
        done = promote(store, args.role, args.model, args.report, args.allow_input_change)
    except PromotionRefused as error:
        for line in str(error).splitlines():
            print(f'refused: {line}', file=sys.stderr)
        return EXIT_CHECK_FAILED
    print(f'{args.role}: version {done.version} is current{" already" if done.already else ""}: {done.name}, '
          f'sha256 {done.sha256[:12]}')
    return _follow(args, done.sha256)


def _rollback(args: argparse.Namespace) -> int:
    event = roll_back(ModelStore(args.store), args.role, args.to)
    print(f'{args.role}: version {event.version} is current again (before: {event.before}): {event.name}, '
          f'sha256 {event.sha256[:12]}')
    return _follow(args, event.sha256)


def _prune(args: argparse.Namespace) -> int:
    for version in args.version:
        ModelStore(args.store).prune(args.role, version)
        print(f'{args.role}: version {version} removed')
    return EXIT_OK


def _history(args: argparse.Namespace) -> int:
    store = ModelStore(args.store)
    histories = {role: store.history(role) for role in ([args.role] if args.role else ROLES)}
    if args.json:
        print(json.dumps({role: to_mapping(history) for role, history in histories.items()}, indent=2))
        return EXIT_OK
    for role, history in histories.items():
        print(*history_lines(role, history), sep='\n')
    return EXIT_OK


def _follow(args: argparse.Namespace, sha256: str) -> int:
    """Have the nodes take the store's current version over."""
    if not args.node:
        return EXIT_OK
    return _swap(f'{SCHEME}{args.store.resolve()}#{args.role}', sha256, args.node, args.timeout)


def _swap_to(args: argparse.Namespace) -> int:
    return _swap(args.model, '', args.node, args.timeout)


def _swap(model: str, sha256: str, nodes: Sequence[str], timeout_s: float) -> int:
    from kd_perception.nodes.shared.swap_client import SwapClient, SwapFailed
    if timeout_s <= 0:
        raise ModelError(f'--timeout is {timeout_s:g}, more than 0 s expected')
    stored = StoreReference.parse(model)
    follows_student, failed = stored is None or stored.role == 'student', 0
    with SwapClient() as client:
        for node in nodes:
            try:
                found = client.swap(node, model, sha256, timeout_s, follows_student)
                print(f'{node}: runs sha256 {found[:12]}')
            except SwapFailed as error:
                failed += 1
                print(f'{node}: {error}', file=sys.stderr)
    return EXIT_CHECK_FAILED if failed else EXIT_OK
