# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`convert`: make recordings out of KITTI folders."""
import argparse
from pathlib import Path
import sys

from kd_perception.errors import ConfigError
from kd_perception.labels.kitti_bag import CAMERA_NAMES, convert, IMAGE_FORMATS
from kd_perception.labels.kitti_folder import LAYOUTS, open_kitti_folder

HELP = 'Make rosbag2 recordings, with ground truth, out of KITTI object, raw and tracking folders.'
EXAMPLES = """\
  kd_perception convert kitti-to-bag --input 2011_09_26_drive_0005_sync --out drive_0005
  kd_perception convert kitti-to-bag --input data_tracking --sequence 0000 --out drive.mcap
  kd_perception convert kitti-to-bag --input kitti_object --out sample --storage sqlite3 --image raw \\
      --camera front"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest='action', required=True, metavar='kitti-to-bag')
    bag = actions.add_parser('kitti-to-bag', help='KITTI object, raw or tracking folder to rosbag2')
    bag.add_argument('--input', required=True, type=Path, help='KITTI folder')
    bag.add_argument('--out', required=True, type=Path,
                     help='recording to write: a folder, or one file ending in .mcap or .db3')
    bag.add_argument('--layout', choices=('auto', *LAYOUTS), default='auto',
                     help='default: found by the names of the folders')
    bag.add_argument('--sequence', help='tracking: which sequence, such as 0000')
    bag.add_argument('--kitti-camera', type=int, choices=range(4), default=2, metavar='0..3',
                     help='number of the camera (default: 2, colour left)')
    bag.add_argument('--labels', type=Path, help='folder of label_2 files in place of the usual one')
    bag.add_argument('--calib', type=Path, help='calibration file or folder in place of the usual one')
    bag.add_argument('--camera', help="name of the camera, its topics' namespace (default: as kitti2bag has "
                                      'it, kitti/camera_color_left)')
    bag.add_argument('--frame-id',
                     help="frame_id of the headers (default: the last part of the camera's name)")
    bag.add_argument('--image', choices=IMAGE_FORMATS, default='keep',
                     help='keep: JPEG and PNG files as they are; jpeg; raw: uncompressed (default: keep)')
    bag.add_argument('--storage', choices=('mcap', 'sqlite3'),
                     help='default: by the suffix of --out, else mcap')
    bag.add_argument('--fps', type=float, default=10.0, help='where there are no time stamps (default: 10)')
    bag.add_argument('--force', action='store_true', help='replace an existing recording')


def run(args: argparse.Namespace) -> int:
    """Run `convert kitti-to-bag`."""
    folder = open_kitti_folder(args.input, args.layout, args.kitti_camera, args.sequence, args.labels,
                               args.calib)
    camera = (args.camera or f'kitti/{CAMERA_NAMES[args.kitti_camera]}').strip('/')
    if not camera:
        raise ConfigError('--camera: a name expected')
    done = convert(folder, args.out, camera, args.frame_id or camera.split('/')[-1], args.image, args.storage,
                   args.fps, args.force)
    for line in done.problems:
        print(f'note: {line}', file=sys.stderr)
    for reason, count in done.left_out.items():
        print(f'warning: {count} images left out: {reason}', file=sys.stderr)
    print(f'wrote {args.out}: {done.frames} images of /{camera} ({folder.layout} layout), '
          f'{done.labelled} with ground truth, {done.calibrated} with CameraInfo')
    return 0
