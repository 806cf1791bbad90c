# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Which class names labels and detections hold, and which of them no figure counts."""
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from kd_perception.evaluation.metrics.kitti_eval import ClassProtocol, KITTI_CLASSES
from kd_perception.labels.object_table import fold_case, ObjectTable

# Every type of KITTI's label files; those outside the evaluated classes are there on purpose.
KITTI_TYPES = ('Car', 'Van', 'Truck', 'Pedestrian', 'Person_sitting', 'Cyclist', 'Tram', 'Misc', 'DontCare')
_SHOWN = 8


def count_types(table: ObjectTable) -> dict[str, int]:
    """Return {class name as written: objects}, the most frequent first."""
    counts = np.bincount(table.type_ids, minlength=len(table.type_names))
    found: Counter = Counter()
    for name, count in zip(table.type_names, counts.tolist()):
        found[name] += count
    return {name: count for name, count in found.most_common() if count}


def not_among(counts: Mapping[str, int], known: Iterable[str]) -> dict[str, int]:
    """Return the part of `counts` whose names are not `known`; case does not count."""
    folded = {fold_case(name) for name in known}
    return {name: count for name, count in counts.items() if fold_case(name) not in folded}


def shown_counts(counts: Mapping[str, int]) -> str:
    """Return `'bus' (12), 'van' (3)`; names as Python writes them, so that unseen characters show."""
    parts = [f'{name!r} ({count})' for name, count in list(counts.items())[:_SHOWN]]
    more = len(counts) - _SHOWN
    return ', '.join(parts) + (f' and {more} more' if more > 0 else '') if parts else 'none'


def account_of_classes(labels: ObjectTable, detections: ObjectTable,
                       classes: Sequence[ClassProtocol] = KITTI_CLASSES) -> list[str]:
    """Return one line for each way in which class names and evaluated classes do not meet."""
    in_labels, in_detections = count_types(labels), count_types(detections)
    evaluated = [item.name for item in classes]
    neighbours = [name for item in classes for name in item.neighbours]
    lines = []
    unknown = not_among(in_labels, [*evaluated, *neighbours, *KITTI_TYPES])
    if unknown:
        lines.append(f"labels of no evaluated class and no type of KITTI's, which no figure counts: "
                     f'{shown_counts(unknown)}')
    unused = not_among(in_detections, evaluated)
    if unused:
        lines.append(f'detections of no evaluated class ({", ".join(evaluated)}), which no figure counts: '
                     f'{shown_counts(unused)}')
    if tuple(classes) != KITTI_CLASSES:
        absent = not_among(dict.fromkeys(evaluated, 0), [*in_labels, *in_detections])
        lines += [f'class {name!r}: neither a label nor a detection has it; the labels hold '
                  f'{shown_counts(in_labels)}' for name in absent]
        lines += [f'class {name!r}, to be ignored: no label has it; the labels hold {shown_counts(in_labels)}'
                  for name in not_among(dict.fromkeys(neighbours, 0), [*in_labels, *KITTI_TYPES])]
    return lines


def account_of_renames(detections: ObjectTable, names: Mapping[str, str]) -> list[str]:
    """Return one line for each FROM of {FROM: TO} that no detection has; call it before the renaming."""
    counts = count_types(detections)
    return [f'--rename {old}={new}: no detection has the class {old!r}; they hold {shown_counts(counts)}'
            for old, new in names.items() if old not in counts]
