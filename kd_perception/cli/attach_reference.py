# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`model attach-reference`: what frames look like where nothing has changed, for the drift monitors."""
import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd_perception.errors import ConfigError, ModelError
from kd_perception.output_folder import check_file_place

HELP = ("Compute the drift monitors' reference statistics from representative frames and write them into a "
        'copy of a model; graph and weights stay as they are.')
EXAMPLES = """\
examples:
  kd_perception model attach-reference student --images drive1.mcap drive2.mcap --out student.onnx
  kd_perception model attach-reference student.onnx --images stills/images drive/images --drive drive \\
      --teacher teacher --out student.onnx --manifest student
                      in place; drive holds consecutive frames; the manifest beside it pins the new file

Take frames of the cameras, places, hours and weather in which nothing shall be reported: many short pieces
say more than one long drive. docs/explanation/drift.md says how many, and what --scene-frames is for."""
MAX_DOCUMENT_BYTES = 3000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the sub-command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = HELP, EXAMPLES
    parser.add_argument('model', help='path of an ONNX file, or a name of the shipped manifest')
    add_image_arguments(parser)
    add_trained_argument(parser)
    parser.add_argument('--teacher', help='ask this model, too, for the reference of the disagreement')
    parser.add_argument('--out', type=Path, required=True, metavar='OUT.onnx',
                        help="model with the reference; may be the model's own file")
    parser.add_argument('--manifest', metavar='NAME',
                        help='also write the entry NAME of the manifest beside OUT')
    parser.add_argument('--rate-hz', type=float, default=10.0, metavar='HZ',
                        help='frame rate of the cameras to be watched (default: 10)')
    parser.add_argument('--scene-frames', type=int, default=70, metavar='N',
                        help='frames after which a camera sees something new; a longer drive is cut into '
                             'stretches of N (default: 70)')
    add_run_arguments(parser)


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which images."""
    parser.add_argument('--images', required=True, nargs='+', metavar='PATH',
                        help='folders of images, recordings or videos, one a set')
    parser.add_argument('--drive', nargs='+', default=[], metavar='SET',
                        help='folders whose images are consecutive frames of one camera. A set is called as '
                             'its folder, DIR of DIR/images')


def add_trained_argument(parser: argparse.ArgumentParser) -> None:
    """Declare which images the model knows."""
    parser.add_argument('--trained-on', nargs='+', default=[], metavar='SET',
                        help='sets that the model was trained on: its answers are better there than '
                             'anywhere, and only the images themselves are taken into the reference')


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how to run."""
    parser.add_argument('--threads', type=int, default=0, metavar='N',
                        help='threads of each model; default 0: one for each core that the process may use')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')


def load_detectors(names: Sequence[Any], threads: int) -> list[Any]:
    """
    Load models by name; None stays None.

    :raises ModelError: as `OnnxDetector.named`. :raises ConfigError: threads out of range.
    """
    from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
    try:
        options = ExecutionOptions(threads=threads)
    except ValueError as error:
        raise ConfigError(f'--threads: {error}') from None
    return [None if name is None else OnnxDetector.named(name, options) for name in names]


def sources_of(paths: list[str], drives: Sequence[str], trained: Sequence[str] = ()) -> list[Any]:
    """
    Return the sets of images.

    :raises ConfigError: `drives` or `trained` names a set that there is not.
    """
    from kd_perception.cli.fit_gate import set_names
    from kd_perception.evaluation.drift.frames import Images
    names = set_names(paths)
    for option, chosen in (('--drive', drives), ('--trained-on', trained)):
        unknown = sorted(set(chosen) - set(names))
        if unknown:
            raise ConfigError(f'{option} {unknown[0]}: no such set; expected some of {", ".join(names)}')
    return [Images(path, name in drives, name in trained, name) for path, name in zip(paths, names)]


def run(args: argparse.Namespace) -> int:
    """Measure, compute and write; every input is checked before the first image."""
    from kd_perception.attach.document import write_document
    from kd_perception.cli.main import EXIT_OK
    from kd_perception.drift.reference import build_reference, DOCUMENT, DriftReference
    from kd_perception.evaluation.drift.frames import measure_images
    sources = sources_of(args.images, args.drive, args.trained_on)
    check_file_place(args.out)
    if not 1 <= args.scene_frames <= 10_000 or not 0 < args.rate_hz <= 1000:
        raise ConfigError('--scene-frames 1 to 10000, --rate-hz above 0 and at most 1000 expected')
    detector, teacher = load_detectors((args.model, args.teacher), args.threads)
    with progress(args.quiet, sources) as bar:
        measured = measure_images(sources, detector, teacher, tick=bar.update)
    made = {'sets': measured.sets, **({'teacher_sha256': teacher.sha256[:12]} if teacher else {})}
    reference = build_reference(measured.values, measured.drives, args.scene_frames, args.rate_hz,
                                measured.disagreements if teacher else (), made)
    document = reference.to_document()
    size = document_bytes(document)
    if size > MAX_DOCUMENT_BYTES:
        raise ModelError(f'{args.out}: the reference would take {size} bytes, expected at most '
                         f'{MAX_DOCUMENT_BYTES}: too many classes')
    digest = write_document(detector.path, DOCUMENT, document, DriftReference.of_model, args.out,
                            args.manifest, detector.sha256)
    for line in measured.problems:
        print(f'warning: {line}')
    _print(reference, measured)
    print(f'wrote {args.out}, sha256 {digest}; the reference takes {size} bytes')
    return EXIT_OK


def document_bytes(document: Any) -> int:
    """Return how many bytes a drift document takes in a model file."""
    from kd_perception.models.spec import document_text
    return len(document_text(document))


def progress(quiet: bool, sources: Sequence[Any], times: int = 1) -> Any:
    """Return a progress bar over images, with `update()`; silent unless stderr is a terminal."""
    from kd_perception.cli.evaluate_hybrid import Silent
    from kd_perception.evaluation.drift.frames import count_images
    total = count_images(sources)
    try:
        from tqdm import tqdm
    except ImportError:
        return Silent()
    return tqdm(total=None if total is None else times * total, unit='frame', desc='frames',
                disable=True if quiet else None)


def _print(reference: Any, measured: Any) -> None:
    from kd_perception.drift.reference import correlation_frames
    print(f'{reference.frames} frames in {reference.scenes} scenes of up to {reference.scene_frames} frames')
    print(f'{"quantity":<22}{"10 %":>10}{"median":>10}{"90 %":>10}{"a frame":>10}'
          f'{"independent":>13}{"correlated":>12}')
    lags = {}
    for q in reference.quantities:
        single = [isinstance(values.get(q.name), float) for values in measured.values]
        lags[q.name] = correlation_frames(
            [values[q.name] for values, one in zip(measured.values, single) if one],
            [drive for drive, one in zip(measured.drives, single) if one])
        middle = q.edges[len(q.edges) // 2]
        print(f'{q.name:<22}{q.edges[0]:>10.4g}{middle:>10.4g}{q.edges[-1]:>10.4g}{q.per_frame:>10.3g}'
              f'{q.independent:>13.1f}{_frames(lags[q.name]):>12}')
    if max((lag for lag in lags.values() if lag), default=0) * 2 > reference.scene_frames:
        print(f'warning: the drives resemble themselves for longer than scenes of {reference.scene_frames} '
              'frames allow for; take --scene-frames twice the largest of "correlated"')
    if reference.disagreement:
        print(f'student and teacher disagree on {reference.disagreement.share:.1%} of the objects '
              f'({reference.disagreement.scenes} scenes)')


def _frames(lag: Any) -> str:
    return '-' if lag is None else f'{lag} frames'
