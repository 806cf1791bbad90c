# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Write what follows from the parameter tables: config/NODE.yaml, and the tables in docs/reference.

    python tools/parameter_files.py            # write them; `make params`
    python tools/parameter_files.py --check    # say which are not current

The tables are kd_perception/nodes/*/parameters.py, kd_perception/monitoring/metric_table.py and the alerts of
config/monitoring/alerts.yaml. In a page, a table stands between
`<!-- make params: NAME -->` and `<!-- end of NAME -->`.

Exit code 0, or 1 with one line for each file that was not current under --check.
"""
import argparse
from collections.abc import Sequence
from pathlib import Path
import re
import sys
import textwrap
from typing import Any, NamedTuple

import yaml

from kd_perception.monitoring import metric_table
from kd_perception.nodes.detector.parameters import DETECTOR_PARAMETERS
from kd_perception.nodes.fallback.parameters import FALLBACK_PARAMETERS
from kd_perception.nodes.metrics.parameters import METRICS_PARAMETERS
from kd_perception.nodes.replay.parameters import REPLAY_PARAMETERS
from kd_perception.nodes.shared.parameters import ParameterSpec

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100
# How the head of a file explains when parameters may change, by what its table holds.
WHEN = {
    'unconfigured': '`live` parameters change while the node runs, the others only while it is unconfigured.',
    'live': '`live` parameters change while the node runs; the others are read when it starts.',
    'start': 'All are read when the node starts.'}


class Node(NamedTuple):
    """A node's table, and the page of the docs that shows it."""

    table: Sequence[ParameterSpec]
    page: str


NODES = {
    'detector': Node(DETECTOR_PARAMETERS, 'docs/reference/detector_node.md'),
    'fallback': Node(FALLBACK_PARAMETERS, 'docs/reference/fallback_node.md'),
    'replay': Node(REPLAY_PARAMETERS, 'docs/reference/replay_node.md'),
    'metrics': Node(METRICS_PARAMETERS, 'docs/reference/metrics.md')}


def scalar(value: Any) -> str:
    """Return a default as YAML writes it, floats with a point: ROS tells 1 and 1.0 apart."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return '[' + ', '.join(scalar(item) for item in value) + ']'
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def config_file(name: str) -> str:
    """Return the text of config/NAME.yaml."""
    table, page = NODES[name]
    changes = {spec.changes for spec in table}
    when = WHEN[next(word for word in WHEN if word in changes)]
    lines = [f'# Parameters of {name}_node with their defaults. Written by `make params` from',
             f'# kd_perception/nodes/{name}/parameters.py; {page} explains them.', '#',
             *textwrap.wrap(when, WIDTH - 2, initial_indent='# ', subsequent_indent='# '),
             '/**:', '  ros__parameters:']
    for spec in table:
        notes = [spec.bounds] if spec.bounds else []
        if spec.changes == 'live':
            notes.append('live')
        elif spec.changes == 'start' and 'unconfigured' in changes:
            notes.append('read when the node starts')
        if spec.section:
            lines += ['', f'    # --- {spec.section} ---']
        lines += _comment(spec.description, '    # ')
        if notes:
            lines += _comment(f'({"; ".join(notes)})', '    #   ')
        lines.append(f'    {spec.name}: {scalar(spec.default)}')
    return '\n'.join(lines) + '\n'


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent,
                         break_long_words=False, break_on_hyphens=False)


def parameter_table(table: Sequence[ParameterSpec]) -> str:
    """Return the table of a page."""
    lines = ['| parameter | type, bounds | default | changes | meaning |', '|---|---|---|---|---|']
    for spec in table:
        kind = f'{spec.type}, {spec.bounds}' if spec.bounds else spec.type
        lines.append(f'| `{spec.name}` | {kind} | `{scalar(spec.default)}` | {spec.changes} | '
                     f'{spec.description} |')
    return '\n'.join(lines)


def metrics_tables() -> str:
    """Return the tables of the exported metrics: those of every node, and one for each component."""
    prefix = metric_table.PREFIX
    lines = ['| metric | type | labels | meaning |', '|---|---|---|---|']
    lines += [f'| `{prefix}{name}` | {kind} | {", ".join(sorted(labels))} | {text} |'
              for name, (kind, labels, text) in metric_table.COMMON.items()]
    for component in dict.fromkeys(spec.source for spec in metric_table.TABLE):
        lines += ['', f'**{component}**', '',
                  '| key | metric | type | labels | meaning |', '|---|---|---|---|---|']
        for spec in metric_table.TABLE:
            if spec.source == component:
                kind = 'gauge' if spec.type == 'states' else spec.type
                labels = ', '.join(name for name in metric_table.labels_of(spec)
                                   if name not in ('camera', 'node'))
                lines.append(f'| `{spec.key}` | `{prefix}{spec.name}` | {kind} | {labels} | '
                             f'{spec.description} |')
        for source, name, text, keys in metric_table.INFOS:
            if source == component:
                lines.append(f'| {", ".join(f"`{key}`" for key in keys.values())} | `{prefix}{name}` | '
                             f'gauge | {", ".join(sorted(keys))} | {text} Always 1. |')
        lines += [f'| `{key}` | | | | {why} |'
                  for (source, key), why in metric_table.OMITTED.items() if source == component]
    return '\n'.join(lines)


def alerts_table() -> str:
    """Return the table of the alerts of config/monitoring/alerts.yaml."""
    group, = yaml.safe_load((ROOT / 'config' / 'monitoring' / 'alerts.yaml').read_text())['groups']
    lines = ['| alert | severity | after | meaning |', '|---|---|---|---|']
    for rule in group['rules']:
        # Prometheus fills in labels and the value.
        summary = re.sub(r'\{\{ \$labels\.(\w+) \}\}', r'*\1*', rule['annotations']['summary'])
        summary = re.sub(r'\{\{ \$value.*?\}\}', '...', summary)
        severity, lasting = rule['labels']['severity'], rule.get('for', '')
        lines.append(f'| `{rule["alert"]}` | {severity} | {lasting} | {summary} |')
    return '\n'.join(lines)


def with_table(text: str, name: str, table: str) -> str:
    """Return a page's text with a table between its marks; ValueError where the page lacks them."""
    begin, end = f'<!-- make params: {name} -->\n', f'<!-- end of {name} -->\n'
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f'expected a line {begin.strip()} and after it {end.strip()}')
    return f'{before}{begin}\n{table}\n\n{end}{after}'


def current_texts() -> dict[str, str]:
    """Return what each file should hold, by its path in the repository."""
    texts = {f'config/{name}.yaml': config_file(name) for name in NODES}
    for node in NODES.values():
        text = (ROOT / node.page).read_text(encoding='utf-8')
        texts[node.page] = with_table(text, 'parameters', parameter_table(node.table))
    page = NODES['metrics'].page
    for name, table in (('alerts', alerts_table()), ('metrics', metrics_tables())):
        texts[page] = with_table(texts[page], name, table)
    return texts


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').strip().splitlines()[0])
    parser.add_argument('--check', action='store_true', help='write nothing; 1 where a file is not current')
    arguments = parser.parse_args()
    stale = [(path, text) for path, text in current_texts().items()
             if (ROOT / path).read_text(encoding='utf-8') != text]
    for path, text in stale:
        if not arguments.check:
            (ROOT / path).write_text(text, encoding='utf-8')
        print(f'{path}: {"is not current: run make params" if arguments.check else "written"}')
    return 1 if stale and arguments.check else 0


if __name__ == '__main__':
    sys.exit(main())
