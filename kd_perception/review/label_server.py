# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The editor's web server: one page and a small JSON interface, for one person on this computer.

Bound to the loopback address alone. Whoever has the address with its token may read and write; a page of
another site may not, since names other than ours (DNS rebinding) and foreign origins are refused. Methods:

    GET  /TOKEN/                     the page; /TOKEN/editor.js, editor.css, icon.svg
    GET  /TOKEN/api/frames           all frames with their status
    GET  /TOKEN/api/frames/N         one frame: boxes of the models, labels, revision
    GET  /TOKEN/api/frames/N/image
    PUT  /TOKEN/api/frames/N         {"status", "boxes", "revision"}: saved when it is answered
    POST /TOKEN/api/finish           ends the server
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import errno
import hmac
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
from pathlib import Path
import re
import secrets
import threading
from typing import Any

from kd_perception.errors import ConfigError
from kd_perception.review.label_store import (
    checked_boxes,
    LabelBox,
    LabelStore,
    OPEN,
    StaleDecision,
    STATUSES,
)

HOST = '127.0.0.1'
# 2,000 boxes take 200 kB.
MAX_BODY_BYTES = 1 << 20
# An idle or very slow connection holds a thread; a browser opens another one by itself.
IDLE_S = 30.0
WEB = Path(__file__).parent / 'web'
ASSETS = {'': ('editor.html', 'text/html; charset=utf-8'), 'editor.js': ('editor.js', 'text/javascript'),
          'editor.css': ('editor.css', 'text/css'), 'icon.svg': ('icon.svg', 'image/svg+xml')}
_FRAME = re.compile(r'api/frames/(\d{1,7})(/image)?')
_POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
           "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


@dataclasses.dataclass(frozen=True, eq=False)
class EditFrame:
    """
    One frame to look at.

    :param name: of its files, unique. :param image: JPEG or PNG. :param image_hw: (height, width) [px].
    :param facts: plain values for people: camera, stamp, why it was recorded, what the models disagree on.
    :param boxes: {'student' | 'teacher' | 'verified': [{'class', 'score', 'box_xyxy', 'alone'}]}; a model
        that has not answered is missing. `alone`: the other model does not have it, or names it otherwise.
    :param proposal: the labels to begin with.
    """

    name: str
    image: Path
    image_hw: tuple[int, int]
    facts: Mapping[str, Any]
    boxes: Mapping[str, Sequence[Mapping[str, Any]]]
    proposal: tuple[LabelBox, ...]


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, message: str):
        super().__init__(message)
        self.status = status


class LabelServer(ThreadingHTTPServer):
    """
    Serves frames of a store; `url` is the address to open, `serve_forever` runs it until `finish`.

    :param classes: labels that may be given, in the order of the keys 1 to 9.
    :param port: 0 takes a free one.
    :raises ConfigError: the port cannot be had.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, store: LabelStore, frames: Sequence[EditFrame], classes: Sequence[str],
                 port: int = 0):
        self.store, self.frames, self.classes = store, tuple(frames), tuple(classes)
        self.token = secrets.token_urlsafe(24)
        self.guard = threading.Lock()
        try:
            self.assets = {name: (WEB / file).read_bytes() for name, (file, _) in ASSETS.items()}
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f'--port {port}: the editor cannot be served at {HOST}:{port} ({error})'
                              ) from None
        self.hosts = {f'{name}:{self.server_address[1]}' for name in (HOST, 'localhost')}
        self.url = f'http://{HOST}:{self.server_address[1]}/{self.token}/'

    def handle_error(self, request, client_address) -> None:
        """Say nothing: a browser that is closed in the middle of an answer is no error."""

    def overview(self) -> dict[str, Any]:
        """Return what the page lists."""
        with self.guard:
            decisions = [self.store.get(frame.name) for frame in self.frames]
            return {'classes': list(self.classes), 'folder': str(self.store.folder),
                    'counts': self.store.counts(frame.name for frame in self.frames),
                    'frames': [{'name': frame.name, 'status': item.status if item else OPEN,
                                'touched': item is not None,
                                'disagreement': frame.facts.get('disagreement')}
                               for frame, item in zip(self.frames, decisions)]}

    def details(self, number: int) -> dict[str, Any]:
        """Return one frame: labels as decided, as proposed where nothing was said yet."""
        frame = self.frames[number]
        with self.guard:
            decision = self.store.get(frame.name)
        return {'number': number, 'name': frame.name, 'image_hw': list(frame.image_hw),
                'facts': dict(frame.facts), 'models': {key: list(item) for key, item in frame.boxes.items()},
                'status': decision.status if decision else OPEN,
                'revision': decision.revision if decision else 0,
                'proposal': _plain(frame.proposal),
                'boxes': _plain(decision.boxes if decision else frame.proposal)}

    def save(self, number: int, body: Any) -> dict[str, Any]:
        """Save a decision; refusals say which field was wrong."""
        frame = self.frames[number]
        if not isinstance(body, dict) or set(body) != {'status', 'boxes', 'revision'}:
            raise _Refused(HTTPStatus.BAD_REQUEST, 'expected an object of status, boxes and revision')
        if body['status'] not in STATUSES:
            raise _Refused(HTTPStatus.BAD_REQUEST, f'status: expected one of {", ".join(STATUSES)}')
        if type(body['revision']) is not int:
            raise _Refused(HTTPStatus.BAD_REQUEST, 'revision: expected an integer')
        try:
            boxes = checked_boxes(body['boxes'], self.classes, frame.image_hw)
        except ConfigError as error:
            raise _Refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        facts = {'name': frame.name, 'image_hw': list(frame.image_hw), **frame.facts}
        with self.guard:
            try:
                decision = self.store.save(frame.name, body['status'], boxes, body['revision'], facts)
            except StaleDecision:
                raise _Refused(HTTPStatus.CONFLICT, 'this frame was changed in another window') from None
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                status = HTTPStatus.INSUFFICIENT_STORAGE if full else HTTPStatus.INTERNAL_SERVER_ERROR
                raise _Refused(status, f'{self.store.folder}: cannot be written '
                                       f'({error.strerror or error})') from None
            counts = self.store.counts(item.name for item in self.frames)
        return {'revision': decision.revision, 'status': decision.status, 'boxes': _plain(decision.boxes),
                'counts': counts}

    def finish(self) -> None:
        """End `serve_forever`, from any thread but its own."""
        threading.Thread(target=self.shutdown, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: LabelServer
    protocol_version = 'HTTP/1.1'
    server_version, sys_version = 'kd_perception', ''
    timeout = IDLE_S
    _last = False

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_PUT(self) -> None:
        self._answer(self._put)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, *_: Any) -> None:
        """Stay silent: the address holds the token."""

    def _answer(self, method: Any) -> None:
        try:
            status = HTTPStatus.OK
            kind, content = method(self._path())
        except _Refused as refusal:
            # What the client still sends is not read: it must not be taken for the next request.
            self.close_connection = True
            status, kind = refusal.status, 'application/json'
            content = json.dumps({'error': str(refusal)}).encode()
        self.send_response(status)
        for name, value in (
                ('Content-Type', kind), ('Content-Length', str(len(content))),
                ('Content-Security-Policy', _POLICY), ('Referrer-Policy', 'no-referrer'),
                ('X-Content-Type-Options', 'nosniff'), ('Cross-Origin-Resource-Policy', 'same-origin'),
                ('Cache-Control', 'no-store')):
            self.send_header(name, value)
        if self.close_connection:
            self.send_header('Connection', 'close')
        self.end_headers()
        self.wfile.write(content)
        if self._last:
            self.server.finish()

    def _path(self) -> str:
        """Return the path behind the token; refuse whatever comes from elsewhere."""
        host = self.headers.get_all('Host') or []
        if len(host) != 1 or host[0].lower() not in self.server.hosts:
            raise _Refused(HTTPStatus.FORBIDDEN, 'not a name of this server')
        origin = self.headers.get('Origin')
        if origin is not None and origin != f'http://{host[0].lower()}':
            raise _Refused(HTTPStatus.FORBIDDEN, 'not an origin of this server')
        if self.command != 'GET' and origin is None:
            raise _Refused(HTTPStatus.FORBIDDEN, 'a change must name its origin')
        token, slash, path = self.path[1:].partition('/')
        if not slash or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise _Refused(HTTPStatus.NOT_FOUND, 'no such page')
        return path

    def _get(self, path: str) -> tuple[str, bytes]:
        if path in self.server.assets:
            return ASSETS[path][1], self.server.assets[path]
        if path == 'api/frames':
            return _json(self.server.overview())
        number, image = self._frame(path)
        if not image:
            return _json(self.server.details(number))
        file = self.server.frames[number].image
        try:
            return ('image/png' if file.suffix == '.png' else 'image/jpeg'), file.read_bytes()
        except OSError as error:
            raise _Refused(HTTPStatus.NOT_FOUND, f'{file}: cannot be read ({error.strerror})') from None

    def _put(self, path: str) -> tuple[str, bytes]:
        number, image = self._frame(path)
        if image:
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, 'images cannot be changed')
        return _json(self.server.save(number, self._body()))

    def _post(self, path: str) -> tuple[str, bytes]:
        if path != 'api/finish':
            raise _Refused(HTTPStatus.NOT_FOUND, 'no such page')
        self._body()
        self.close_connection = self._last = True
        return _json({'finished': True})

    def _frame(self, path: str) -> tuple[int, bool]:
        match = _FRAME.fullmatch(path)
        if match is None or int(match.group(1)) >= len(self.server.frames):
            raise _Refused(HTTPStatus.NOT_FOUND, 'no such page')
        return int(match.group(1)), bool(match.group(2))

    def _body(self) -> Any:
        length = self.headers.get('Content-Length', '')
        if self.headers.get('Transfer-Encoding') or not (length.isascii() and length.isdigit()):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, 'a Content-Length is needed')
        if len(length) > 9 or int(length) > MAX_BODY_BYTES:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f'at most {MAX_BODY_BYTES} bytes')
        if self.headers.get_content_type() != 'application/json':
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, 'application/json expected')
        data = self.rfile.read(int(length))
        if len(data) != int(length):
            raise _Refused(HTTPStatus.BAD_REQUEST, 'the body is shorter than its Content-Length')
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise _Refused(HTTPStatus.BAD_REQUEST, 'the body is not JSON') from None


def _plain(boxes: Sequence[LabelBox]) -> list[dict[str, Any]]:
    return [{'class': box.name, 'box_xyxy': list(box.box_xyxy)} for box in boxes]


def _json(value: Any) -> tuple[str, bytes]:
    return 'application/json', json.dumps(value, allow_nan=False).encode()
