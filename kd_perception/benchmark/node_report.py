# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The report of `benchmark node` as tables."""

from __future__ import annotations


def markdown(report: dict) -> str:
    """Return the report as tables for people."""
    machine = report['machine']
    lines = ['# detector_node', '',
             f'{machine["cpu"]}, {machine["cores"]} cores, load {machine["load_average_at_start"]}; '
             f'{machine["system"]}; Python {machine["python"]}, ROS {machine["ros_distro"]}, '
             f'onnxruntime {machine["onnxruntime"]}, OpenCV {machine["opencv"]}, '
             f'transports {machine["transports"]}.',
             '', f'Image {report["image"]}; model {report["model"]}, {report["threads"]} thread(s); '
             f'{report["seconds"]:g} s each.', '']
    if 'startup' in report:
        lines += [f'Import {report["startup"]["import_ms"]:.0f} ms; process start to active '
                  f'{report["startup"]["process_to_active_ms"]:.0f} ms.', '']
    for name, title in (('overhead', 'Overhead'), ('age', 'Age with a slow model'), ('cpu', 'CPU')):
        if name not in report:
            continue
        part = report[name]
        dropped = ', '.join(f'{key[8:]} {count}' for key, count in part['dropped'].items()) or 'none'
        latency = part['stamp_to_consumer']
        lines += [f'## {title}: {part["cameras"]} camera(s) at {part["rate_hz"]:g} Hz', '',
                  f'{part["sent"]} images sent, {part["results"]} results, dropped: {dropped}. '
                  f'CPU {part["cpu_percent_of_one_core"]:g} % of one core, {part["cpu_ms_per_result"]:.1f} '
                  f'ms a result. Image stamp to result at the consumer: median {latency["p50_ms"]:.1f} ms, '
                  f'p99 {latency["p99_ms"]:.1f} ms.', '',
                  '| stage, ms | median | p95 | p99 | max |', '|---|---|---|---|---|']
        lines += [f'| {stage} | ' + ' | '.join(
            f'{values[f"{p}_ms"]:.2f}' for p in ('p50', 'p95', 'p99', 'max')) + ' |'
            for stage, values in part['stages'].items()]
        lines.append('')
    for goal in report['goals']:
        verdict = 'met' if goal['met'] else 'MISSED'
        lines.append(f'- {verdict}: {goal["goal"]}: {goal["value_ms"]:.2f} ms')
    return '\n'.join(lines).rstrip() + '\n'
