# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`evaluate compare`: what became better or worse, and may the new model take the old one's place?"""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.errors import ConfigError, EvaluationError
from kd_perception.evaluation.report import text
from kd_perception.evaluation.report.compare import compare, load_report
from kd_perception.evaluation.report.verdict import Comparison, judge, VerdictLimits
from kd_perception.exit_codes import EXIT_CHECK_FAILED, EXIT_OK
from kd_perception.files import write_whole

DEFAULTS = VerdictLimits()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('before', metavar='A.json')
    parser.add_argument('after', metavar='B.json')
    parser.add_argument('--metric', action='append', metavar='NAME[=TOLERANCE]',
                        help='fail if this metric became worse by more than the tolerance; may be repeated')
    parser.add_argument('--tolerance', type=float, default=0.0,
                        help='for metrics without one of their own (default: 0)')
    verdict = parser.add_argument_group(
        'may the model of B take the place of the one of A?',
        'Judged on each set of frames, and written for `model promote`; exit code 1 if not.')
    verdict.add_argument('--verdict', type=Path, metavar='FILE.json',
                         help='judge, and write the verdict here')
    verdict.add_argument('--also', nargs=2, action='append', default=[], metavar=('A2.json', 'B2.json'),
                         help='reports on the same two models on another set of frames; may be repeated')
    for option, kind, default, metavar, meaning in (
            ('--max-ap-loss', float, DEFAULTS.max_ap_loss, 'POINTS', 'AP R40 that a class may lose'),
            ('--max-ap-loss-bound', float, DEFAULTS.max_ap_loss_bound, 'POINTS',
             'the same at the worse end of the 95 %% interval'),
            ('--max-miss-rate-rise', float, DEFAULTS.max_miss_rate_rise, 'X',
             'by how much the miss rate `reasonable` (0 to 1) may rise'),
            ('--max-miss-rate-rise-bound', float, DEFAULTS.max_miss_rate_rise_bound, 'X',
             'the same at the worse end of the 95 %% interval'),
            ('--min-ground-truths', int, DEFAULTS.min_ground_truths, 'N',
             'a class is judged on sets that hold so many of it'),
            ('--min-sets', int, DEFAULTS.min_sets, 'N', 'sets of different labels that there must be')):
        verdict.add_argument(option, type=kind, default=default, metavar=metavar,
                             help=f'{meaning} (default: {default:g})')
    verdict.add_argument('--judge-class', action='append', default=[], metavar='NAME',
                         help='judge this class, and no others than so named (default: all of the reports)')
    verdict.add_argument('--judge-difficulty', action='append', default=[], metavar='NAME',
                         help=f'judge AP at this difficulty (default: {", ".join(DEFAULTS.difficulties)})')


def run(args: argparse.Namespace) -> int:
    """Run `evaluate compare`."""
    comparison = _judge(args) if args.verdict else None
    if args.also and comparison is None:
        raise ConfigError('--also is for --verdict')
    before, after = load_report(args.before), load_report(args.after)
    named = dict(_parse_metric(name, args.tolerance) for name in args.metric or ())
    deltas = compare(before, after)
    shown = {delta.name for delta in deltas}
    deltas += compare(before, after, [name for name in named if name not in shown])
    if before['data']['sha256'].get('labels') != after['data']['sha256'].get('labels'):
        print('note: the reports are about different labels')
    worse = {delta.name: named[delta.name] for delta in deltas
             if delta.name in named and delta.loss > named[delta.name] + 1e-12}
    print(*text.differences(deltas, worse), sep='\n')
    if comparison is not None:
        print(*text.verdict(comparison), f'wrote {args.verdict}', sep='\n')
    return EXIT_CHECK_FAILED if worse or (comparison is not None and not comparison.passed) else EXIT_OK


def _judge(args: argparse.Namespace) -> Comparison:
    try:
        limits = VerdictLimits(
            args.max_ap_loss, args.max_ap_loss_bound, args.max_miss_rate_rise, args.max_miss_rate_rise_bound,
            tuple(args.judge_difficulty) or DEFAULTS.difficulties, tuple(args.judge_class),
            args.min_ground_truths, args.min_sets)
    except ValueError as error:
        raise ConfigError(f'limits of the verdict: {error}') from None
    comparison = judge([(args.before, args.after), *args.also], limits, args.verdict.parent)
    try:
        args.verdict.parent.mkdir(parents=True, exist_ok=True)
        write_whole(args.verdict, comparison.text())
    except OSError as error:
        raise EvaluationError(f'{args.verdict}: cannot be written: {error.strerror}') from None
    return comparison


def _parse_metric(metric: str, tolerance: float) -> tuple[str, float]:
    name, equals, value = metric.partition('=')
    try:
        own = float(value) if equals else tolerance
        if not own >= 0:
            raise ValueError
    except ValueError:
        raise ConfigError(f'--metric {metric!r}: NAME or NAME=TOLERANCE, the tolerance not below 0, '
                          'expected') from None
    return name, own
