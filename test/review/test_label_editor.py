# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`review --edit` over HTTP: what is saved, what is refused, a folder that two want, a disk that is full."""

import http.client
import json
import socket
import threading

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from hard_frames import hard_frame, START_NS
from kd_perception.bags.writer import BagWriter
from kd_perception.cli import review
from kd_perception.cli.main import main
from kd_perception.errors import ConfigError
from kd_perception.labels.kitti_text import read_label_file
from kd_perception.review.edit import edit
from kd_perception.review.label_server import MAX_BODY_BYTES
from kd_perception.review.label_store import checked_boxes, LabelStore
from label_editor import arguments, ask, editor

CAR, FAR = (5, 5, 35, 30), (45, 10, 70, 50)


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    """0: agreement and a doubt; 1: two differences; 2: no teacher; 3: the same camera name once / is _."""
    path = tmp_path_factory.mktemp('bags') / 'bag'
    with BagWriter(path) as writer:
        for frame in (
                hard_frame(0, student=[(0, .9, CAR)], teacher=[(0, .8, CAR), (1, .3, FAR)]),
                hard_frame(1, student=[(0, .9, CAR)], teacher=[(1, .9, FAR)], compressed=True),
                hard_frame(2, student=[(2, .9, FAR)], teacher=None),
                hard_frame(3, 'a/b', student=[], teacher=[]), hard_frame(3, 'a_b', student=[], teacher=[])):
            for topic, kind, raw in frame.messages():
                writer.write_raw(topic, kind, raw, frame.stamp_ns)
    return path


def put(server, number, status='accepted', boxes=(), revision=0, **more):
    body = {'status': status, 'revision': revision,
            'boxes': [{'class': name, 'box_xyxy': list(box)} for name, box in boxes]}
    return ask(server, 'PUT', f'api/frames/{number}', body, **more)


def labels(folder):
    return {path.stem: list(zip(found.types, map(tuple, found.boxes_xyxy.tolist())))
            for path in sorted((folder / 'label_2').glob('*.txt')) for found in [read_label_file(path)]}


def images(folder):
    return {path.stem for path in (folder / 'images').iterdir()}


def test_frames_come_with_boxes_and_a_proposal(bag, tmp_path):
    with editor(bag, tmp_path / 'site') as server:
        _, overview = ask(server, 'GET', 'api/frames')
        assert [frame['disagreement'] for frame in overview['frames']] == [2, 0, 0, 0, None]
        assert overview['classes'] == ['Car', 'Pedestrian', 'Cyclist', 'DontCare']
        assert len({frame['name'] for frame in overview['frames']}) == 5
        _, first = ask(server, 'GET', 'api/frames/0')
        assert first['boxes'] == [{'class': 'Pedestrian', 'box_xyxy': list(FAR)}]
        assert first['status'] == 'open' and first['revision'] == 0
        assert [box['alone'] for box in first['models']['student']] == [True]
        _, second = ask(server, 'GET', 'api/frames/1')
        assert [box['class'] for box in second['boxes']] == ['Car', 'DontCare']
        _, last = ask(server, 'GET', 'api/frames/4')
        assert 'teacher' not in last['models'] and [box['class'] for box in last['boxes']] == ['Cyclist']
        assert ask(server, 'GET', 'api/frames/0/image')[1].startswith(b'\xff\xd8')
        assert ask(server, 'GET', 'api/frames/1/image')[1].startswith(b'\x89PNG')
        for name in ('', 'editor.js', 'editor.css', 'icon.svg'):
            status, content = ask(server, 'GET', name)
            assert status == 200 and b'://' not in content.replace(b'http://www.w3.org/2000/svg', b'')


def test_only_accepted_frames_become_labels_and_all_is_resumed(bag, tmp_path):
    site = tmp_path / 'site'
    with editor(bag, site) as server:
        name = server.frames[0].name
        status, answer = put(server, 0, boxes=[('Car', (-20, 5.004, 35, 300)), ('Cyclist', CAR)])
        assert status == 200 and answer['counts'] == {'open': 4, 'accepted': 1, 'rejected': 0}
        assert answer['boxes'][0]['box_xyxy'] == [0, 5.0, 35, 60], 'cut at the border of 80x60 px'
        assert labels(site) == {name: [('Car', (0, 5, 35, 60)), ('Cyclist', CAR)]} and images(site) == {name}
        assert put(server, 1, 'rejected')[0] == put(server, 2, 'open', [('Car', CAR)])[0] == 200
        assert put(server, 3)[0] == 200
        assert labels(site)[server.frames[3].name] == [], 'nothing to see is a label too'
    with editor(bag, site) as server:
        _, overview = ask(server, 'GET', 'api/frames')
        assert [frame['status'] for frame in overview['frames']] == [
            'accepted', 'rejected', 'open', 'accepted', 'open']
        _, draft = ask(server, 'GET', 'api/frames/2')
        assert draft['revision'] == 1 and draft['boxes'] == [{'class': 'Car', 'box_xyxy': list(CAR)}]
        assert put(server, 0, 'rejected', revision=1)[0] == 200
        assert set(labels(site)) == images(site) == {server.frames[3].name}
        assert server.store.summary() == {'images': 1, 'labels': {}, 'empty': 1}


def test_a_crash_between_two_files_is_repaired_at_the_next_start(bag, tmp_path):
    site = tmp_path / 'site'
    with editor(bag, site) as server:
        name, other = server.frames[0].name, server.frames[1].name
        put(server, 0, boxes=[('Car', CAR)])
        put(server, 1, 'rejected')
    (site / 'label_2' / f'{name}.txt').write_text('half')
    (site / 'images' / f'{name}.jpg').unlink()
    (site / 'label_2' / f'{other}.txt').write_text('')
    (site / 'label_2' / 'my_own.txt').write_text('')
    with editor(bag, site):
        assert labels(site) == {name: [('Car', CAR)], 'my_own': []} and images(site) == {name}
    (site / '.review' / 'frames' / f'{name}.json').write_text('{"status": "accepted"')
    with pytest.raises(ConfigError, match=f'{name}.json: is not a decision'):
        LabelStore(site).open()


def test_two_editors_of_one_folder_and_foreign_labels(bag, tmp_path):
    site, foreign = tmp_path / 'site', tmp_path / 'foreign'
    (foreign / 'label_2').mkdir(parents=True)
    (foreign / 'label_2' / '1.txt').write_text('')
    with editor(bag, site):
        with pytest.raises(ConfigError, match='is open in another editor'):
            LabelStore(site).open()
    LabelStore(site).open()
    with pytest.raises(ConfigError, match='label_2: exists and is not of an earlier review'):
        LabelStore(foreign).open()
    (tmp_path / 'file').write_text('')
    with pytest.raises(ConfigError, match='file: cannot be written'):
        LabelStore(tmp_path / 'file').open()


def test_a_full_disk_changes_nothing_and_is_said(bag, tmp_path):
    site, full = tmp_path / 'site', []
    with editor(bag, site, full=lambda: bool(full)) as server:
        assert put(server, 0, boxes=[('Car', CAR)])[0] == 200
        before = labels(site)
        full.append(True)
        for number, status, revision in ((0, 'accepted', 1), (0, 'rejected', 1), (1, 'accepted', 0)):
            code, answer = put(server, number, status, [('Car', FAR)], revision)
            assert code == 507 and 'No space left on device' in answer['error']
            assert labels(site) == before and images(site) == set(before)
        full.clear()
        assert ask(server, 'GET', 'api/frames/0')[1]['boxes'] == [{'class': 'Car', 'box_xyxy': list(CAR)}]
        assert put(server, 0, boxes=[('Car', FAR)], revision=1)[0] == 200
    assert [box for _, box in labels(site).popitem()[1]] == [FAR]


def test_two_windows_do_not_overwrite_one_another(bag, tmp_path):
    with editor(bag, tmp_path / 'site') as server:
        assert put(server, 0, boxes=[('Car', CAR)])[0] == 200
        status, answer = put(server, 0, 'rejected')
        assert status == 409 and 'another window' in answer['error']
        assert ask(server, 'GET', 'api/frames/0')[1]['status'] == 'accepted'


@pytest.mark.parametrize('change, code, words', [
    ({'status': 'maybe'}, 400, 'status'), ({'revision': True}, 400, 'revision'),
    ({'boxes': {}}, 422, 'a list'),
    ({'more': 1}, 400, 'an object of'), ({'boxes': [3]}, 422, r'boxes[0].class'),
    ({'boxes': [{'class': 'Van', 'box_xyxy': [1, 2, 9, 9]}]}, 422, 'expected one of Car'),
    ({'boxes': [{'class': 'Car', 'box_xyxy': [1, 2, 9]}]}, 422, 'four finite numbers'),
    ({'boxes': [{'class': 'Car', 'box_xyxy': [1, 2, 9, float('nan')]}]}, 422, 'four finite numbers'),
    ({'boxes': [{'class': 'Car', 'box_xyxy': [90, 2, 99, 9]}]}, 422, 'inside the image of 80x60'),
    ({'boxes': [{'class': 'Car', 'box_xyxy': [9, 2, 1, 9]}]}, 422, 'less than 1 px')])
def test_what_no_page_sends_is_refused(server_of_all, change, code, words):
    server, site = server_of_all
    body = {'status': 'accepted', 'boxes': [], 'revision': 0, **change}
    status, answer = ask(server, 'PUT', 'api/frames/0', body)
    assert status == code and words in answer['error'] and not labels(site)


@pytest.fixture(scope='module')
def server_of_all(bag, tmp_path_factory):
    site = tmp_path_factory.mktemp('site')
    with editor(bag, site) as server:
        yield server, site


def test_strangers_are_turned_away(server_of_all):
    server, site = server_of_all
    assert server.server_address[0] == '127.0.0.1'
    port = server.server_address[1]
    base = f'http://127.0.0.1:{port}/'
    body = json.dumps({'status': 'accepted', 'boxes': [], 'revision': 0}).encode()
    for path in ('', 'x', f'{"x" * len(server.token)}/api/frames', f'{server.token}',
                 f'{server.token}/../etc/passwd', f'{server.token}/api/frames/9',
                 f'{server.token}/api/frames/-1'):
        assert ask(server, 'GET', base + path)[0] == 404, path
    for headers in ({'Host': f'evil.example:{port}'}, {'Host': '127.0.0.1'},
                    {'Origin': 'http://evil.example'}, {'Origin': 'null'},
                    {'Origin': f'http://localhost:{port}'}):
        assert ask(server, 'PUT', 'api/frames/0', raw=body, headers=headers)[0] == 403, headers
    assert ask(server, 'PUT', 'api/frames/0', raw=body, headers={'Origin': None})[0] == 403
    assert ask(server, 'PUT', 'api/frames/0', raw=body, headers={'Content-Type': 'text/plain'})[0] == 415
    assert ask(server, 'PUT', 'api/frames/0/image', raw=body)[0] == 405
    assert ask(server, 'POST', 'api/frames', raw=b'{}')[0] == 404
    assert ask(server, 'PUT', 'api/frames/0', raw=b'[' * 100_000)[0] == 400
    assert ask(server, 'GET', '', headers={'Origin': None, 'Host': f'localhost:{port}'})[0] == 200
    assert not labels(site)


@pytest.mark.parametrize('length, code', [
    (str(MAX_BODY_BYTES + 1), 413), ('9' * 30, 413), ('0' * 30 + '9', 413), ('-1', 411), ('', 411)])
def test_sizes_are_bounded(server_of_all, length, code):
    server, _ = server_of_all
    host = f'127.0.0.1:{server.server_address[1]}'
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.putrequest('PUT', f'/{server.token}/api/frames/0', skip_host=True)
    for name, value in (('Host', host), ('Origin', f'http://{host}'), ('Content-Type', 'application/json'),
                        ('Content-Length', length)):
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == code and answer.headers['Connection'] == 'close'
    assert "default-src 'none'" in answer.headers['Content-Security-Policy']
    connection.close()


def test_a_connection_that_breaks_off_harms_nobody(server_of_all):
    server, site = server_of_all
    host = f'127.0.0.1:{server.server_address[1]}'
    with socket.create_connection(server.server_address) as broken:
        broken.sendall(f'PUT /{server.token}/api/frames/0 HTTP/1.1\r\nHost: {host}\r\n'
                       f'Origin: http://{host}\r\n'
                       'Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{"status'.encode())
    assert ask(server, 'GET', 'api/frames')[0] == 200 and not labels(site)


NUMBERS = st.floats(-1e4, 1e4) | st.sampled_from([0.0, 80.0, 60.0, 1e9, float('inf')])


@given(st.lists(st.tuples(st.sampled_from(['Car', 'Van']), st.tuples(*[NUMBERS] * 4)), max_size=3))
@settings(max_examples=60)
def test_what_is_kept_lies_inside_the_image_and_is_kept_again_as_it_is(items):
    plain = [{'class': name, 'box_xyxy': list(box)} for name, box in items]
    try:
        kept = checked_boxes(plain, ('Car',), (60, 80))
    except ConfigError:
        return
    for name, (left, top, right, bottom) in kept:
        assert name == 'Car' and 0 <= left < right <= 80 and 0 <= top < bottom <= 60
    again = [{'class': name, 'box_xyxy': list(box)} for name, box in kept]
    assert checked_boxes(again, ('Car',), (60, 80)) == kept


def test_the_command_ends_with_the_page(bag, tmp_path, capsys):
    def finish(server):
        started.append(server)
        threading.Thread(target=lambda: ask(server, 'POST', 'api/finish', {}), daemon=True).start()

    started = []
    edit(review.selection(arguments(bag, tmp_path / 'site')), tmp_path / 'site', quiet=True, started=finish)
    out = capsys.readouterr().out
    assert started[0].url in out and '0 labelled images' in out
    for more, words in ((('site', '--edit', '--port', '99999'), '--port 99999'),
                        (('x', '--class', 'Van'), '--port and --class apply to --edit'),
                        (('y', '--edit', '--class', 'a b'), "--class 'a b': expected one word")):
        assert main(['review', '--input', str(bag), '--out', str(tmp_path / more[0]), *more[1:]]) == 2
        assert words in capsys.readouterr().err


def test_classes_recorded_and_asked_for_are_offered(bag, tmp_path):
    with editor(bag, tmp_path / 'site', '--class', 'Van', '--labels-from', 'student') as server:
        assert server.classes == ('Car', 'Pedestrian', 'Cyclist', 'Van', 'DontCare')
        _, first = ask(server, 'GET', 'api/frames/0')
        assert [box['class'] for box in first['boxes']] == ['Car']
    assert str(START_NS)[:6] in server.frames[0].name
