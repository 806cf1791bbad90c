# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The editor of `review --edit` in a real browser: mouse, keys, what is on the disk after each, faults."""

import os
from pathlib import Path
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

from browser import Browser, find_browser
from hard_frames import hard_frame
from kd_perception.bags.writer import BagWriter
from kd_perception.labels.kitti_text import read_label_file
from label_editor import editor

pytestmark = pytest.mark.skipif(find_browser() is None, reason='no Chromium is installed')
HW = (240, 480)
CAR, WALKER = (40.0, 60.0, 160.0, 140.0), (300.0, 80.0, 330.0, 180.0)
ARROW_RIGHT, DELETE, ENTER, ESCAPE, TAB = 39, 46, 13, 27, 9
CONTROL, SHIFT = 2, 8


@pytest.fixture
def bag(tmp_path):
    """0: the teacher sees two more; 1: one more; 2: they agree."""
    rng = np.random.default_rng(0)
    with BagWriter(tmp_path / 'bag') as writer:
        for number, teacher in enumerate(([(0, .9, CAR), (1, .7, WALKER)], [(0, .9, CAR)], [])):
            image = rng.integers(60, 90, (*HW, 3), np.uint8)
            frame = hard_frame(number, image=image, student=[], teacher=teacher)
            for topic, kind, raw in frame.messages():
                writer.write_raw(topic, kind, raw, frame.stamp_ns)
    return tmp_path / 'bag'


@pytest.fixture
def browser(tmp_path):
    found = Browser(tmp_path / 'profile')
    yield found
    found.close()


class Page:
    """What a person does with the editor."""

    def __init__(self, browser, url):
        self.browser = browser
        browser.go(url)
        self.shows(0)

    def shows(self, number):
        self.browser.wait(f'typeof frame !== "undefined" && frame && image && frame.number === {number}')

    def saved(self):
        self.browser.wait('!dirty && !saving')

    def drag(self, *points):
        """Drag in pixels of the image."""
        place = self.browser.evaluate('(({left, top}) => [left + view.x, top + view.y, view.scale])'
                                      '(canvas.getBoundingClientRect())')
        self.browser.drag([(place[0] + x * place[2], place[1] + y * place[2]) for x, y in points])

    def boxes(self):
        return [(box['class'], *box['box_xyxy']) for box in self.browser.evaluate('frame.boxes')]


def labels(folder, number):
    found = read_label_file(folder / 'label_2' / f'front_{1_700_000_000_000_000_000 + number * 10 ** 8}.txt')
    return [(name, *box) for name, box in zip(found.types, found.boxes_xyxy.tolist())]


def near(found, *expected):
    assert [item[0] for item in found] == [item[0] for item in expected]
    for one, other in zip(found, expected):
        assert np.allclose(one[1:], other[1:], atol=1.6), (one, other)


def test_a_person_labels_by_mouse_and_keyboard(bag, browser, tmp_path):
    site = tmp_path / 'site'
    with editor(bag, site) as server:
        page = Page(browser, server.url)
        near(page.boxes(), ('Car', *CAR), ('Pedestrian', *WALKER))
        page.drag((200, 20), (240, 50), (260, 60))          # draw ...
        browser.key('3')                                    # ... a Cyclist
        page.drag((100, 100), (110, 105), (120, 120))       # move the car
        page.drag((330, 130), (400, 130), (900, 130))       # the walker, beyond the border
        page.saved()
        near(page.boxes(), ('Car', 60, 80, 180, 160), ('Pedestrian', 300, 80, 480, 180),
             ('Cyclist', 200, 20, 260, 60))
        assert not list((site / 'label_2').iterdir()), 'a draft is no label yet'
        browser.key('z', modifiers=CONTROL)
        page.drag((230, 40), (230, 40))                     # select, and delete
        browser.key('Delete', DELETE)
        near(page.boxes(), ('Car', 60, 80, 180, 160), ('Pedestrian', *WALKER))
        browser.key('Escape', ESCAPE)
        browser.key('Tab', TAB)
        browser.key('ArrowRight', ARROW_RIGHT, modifiers=SHIFT)
        browser.key('Enter', ENTER)
        page.shows(1)
        near(labels(site, 0), ('Car', 70, 80, 190, 160), ('Pedestrian', *WALKER))
        browser.click('#labels button')
        page.drag((100, 100), (100, 100))                   # take the teacher's box over
        near(page.boxes(), ('Car', *CAR))
        browser.key('x')
        page.shows(2)
        page.drag((-3, 20), (10, 30), (50, 60))             # begun outside the image
        page.saved()
        near(page.boxes(), ('Cyclist', 0, 20, 50, 60))
        picture = os.environ.get('KD_PERCEPTION_SCREENSHOT')
        if picture:
            browser.screenshot(Path(picture))
        browser.go('about:blank')
        assert server.store.counts(frame.name for frame in server.frames) == {
            'open': 1, 'accepted': 1, 'rejected': 1}
    assert [path.stem for path in (site / 'images').iterdir()] == [
        path.stem for path in (site / 'label_2').iterdir()] == ['front_1700000000000000000']
    assert not browser.complaints


def test_a_killed_browser_and_a_killed_program_lose_nothing(bag, browser, tmp_path):
    site = tmp_path / 'site'
    command = [sys.executable, '-m', 'kd_perception', 'review', '--input', str(bag), '--edit',
               '--out', str(site)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            url = re.search(r'http://\S+', program.stdout.readline()).group()
            page = Page(browser, url)
            page.drag((200, 20), (240, 50), (260, 60))
            browser.wait('frame.boxes.length === 3')
            page.saved()
            browser.close()
            browser.start(tmp_path / 'again')
            near(Page(browser, url).boxes()[2:], ('Car', 200, 20, 260, 60))
        finally:
            program.kill()
    browser.key('Enter', ENTER)
    browser.wait('!document.getElementById("problem").hidden')
    assert 'NOT SAVED' in browser.evaluate('document.getElementById("problem").textContent')
    assert browser.evaluate('frame.number') == 0 and browser.evaluate('dirty')
    with editor(bag, site) as server:
        browser.close()                                     # the page would ask whether to leave
        browser.start(tmp_path / 'third')
        near(Page(browser, server.url).boxes()[2:], ('Car', 200, 20, 260, 60))


def test_a_full_disk_is_said_and_another_window_too(bag, browser, tmp_path):
    full = threading.Event()
    with editor(bag, tmp_path / 'site', full=full.is_set) as server:
        page = Page(browser, server.url)
        full.set()
        browser.key('Enter', ENTER)
        browser.wait('!document.getElementById("problem").hidden')
        assert 'No space left' in browser.evaluate('document.getElementById("problem").textContent')
        assert browser.evaluate('frame.number') == 0
        full.clear()
        browser.click('#retry')
        page.saved()
        assert len(labels(tmp_path / 'site', 0)) == 2
        server.save(0, {'status': 'rejected', 'boxes': [], 'revision': 1})  # a second window
        page.drag((200, 20), (240, 50), (260, 60))
        browser.wait('!document.getElementById("problem").hidden')
        assert 'another window' in browser.evaluate('document.getElementById("problem").textContent')
        browser.click('#retry')
        browser.wait('frame.status === "rejected" && frame.boxes.length === 0')
        browser.click('#finish')
        browser.wait('document.body.textContent.includes("You can close this page")')
