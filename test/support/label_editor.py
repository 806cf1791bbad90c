# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The editor of `review --edit` in a thread of a test, and a disk that is full when the test says so."""

import argparse
import contextlib
import errno
import json
import threading
import urllib.error
import urllib.request

from kd_perception.cli import review
from kd_perception.files import write_whole
from kd_perception.review.edit import prepare
from kd_perception.review.label_store import LabelStore


def arguments(bag, out, *more):
    parser = argparse.ArgumentParser()
    review.add_arguments(parser)
    return parser.parse_args(['--input', str(bag), '--out', str(out), '--quiet', '--edit', *map(str, more)])


@contextlib.contextmanager
def editor(bag, out, *more, full=lambda: False):
    """Serve the editor; yields the running server."""
    def write(path, content, durable=False):
        if full():
            raise OSError(errno.ENOSPC, 'No space left on device')
        write_whole(path, content)

    store = LabelStore(out, write)
    store.open()
    try:
        args = arguments(bag, out, *more)
        with prepare(review.selection(args), store, args.labels_from, args.classes, args.port) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join(10)
    finally:
        store.close()


def ask(server, method, path, body=None, headers=(), raw=None):
    """Send one request; return (status, JSON or bytes)."""
    origin = server.url.split('/', 3)
    origin = '/'.join(origin[:3])
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path if '://' not in path else path, data, method=method)
    for name, value in {'Origin': origin, 'Content-Type': 'application/json', **dict(headers)}.items():
        if value is not None:
            request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            status, kind, content = answer.status, answer.headers['Content-Type'], answer.read()
    except urllib.error.HTTPError as error:
        status, kind, content = error.code, error.headers['Content-Type'], error.read()
    return status, json.loads(content) if kind == 'application/json' else content
