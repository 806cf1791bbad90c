# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
A real browser for tests: Chromium, driven by the DevTools protocol over a pipe, with no package in between.

https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')
PRESSED = {'left': 1, 'right': 2}
# Becomes the browser, with the pipe's ends at 3 and 4; first out of the way: they may be 3 and 4 crosswise.
_EXEC = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, wanted in zip(ends, (3, 4)):
    os.dup2(end, wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_browser():
    """Return the path of an installed browser, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """
    One page in a headless browser with a profile of its own.

    :ivar complaints: errors that pages logged, policy violations among them, and exceptions not caught.
    """

    def __init__(self, profile, width=1440, height=860, timeout_s=60.0):
        self.timeout_s, self.complaints, self._size = timeout_s, [], (width, height)
        self.start(profile)

    def start(self, profile):
        """Start a browser, after `close` another one."""
        self._next, self._buffer, (width, height) = 0, b'', self._size
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # The protocol wants the pipe at descriptors 3 and 4.
        command = [find_browser(), '--headless=new', '--remote-debugging-pipe', '--no-first-run',
                   '--disable-gpu', '--disable-dev-shm-usage', f'--window-size={width},{height}',
                   f'--user-data-dir={profile}',
                   *(['--no-sandbox'] if os.geteuid() == 0 else []), 'about:blank']
        self._process = subprocess.Popen(
            [sys.executable, '-c', _EXEC, str(to_read), str(to_write), *command],
            pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True)
        os.close(to_read)
        os.close(to_write)
        self._session = None
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self._session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log'):
            self.call(f'{domain}.enable')
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1,
                  mobile=False)

    def close(self):
        """End the browser at once, as a crash would."""
        self._process.kill()
        self._process.wait(10)
        os.close(self._read)
        os.close(self._write)

    def call(self, method, **parameters):
        """Call a method of the protocol and return its result."""
        self._next += 1
        message = {'id': self._next, 'method': method, 'params': parameters}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._write, json.dumps(message).encode() + b'\0')
        deadline = time.monotonic() + self.timeout_s
        while True:
            answer = self._message(deadline)
            if answer.get('id') == self._next:
                assert 'error' not in answer, f'{method}: {answer["error"]}'
                return answer['result']
            self._note(answer)

    def evaluate(self, expression):
        """Return the value of a JavaScript expression in the page, after it settled if it is a promise."""
        found = self.call('Runtime.evaluate', expression=expression, awaitPromise=True, returnByValue=True)
        assert 'exceptionDetails' not in found, found['exceptionDetails']
        return found['result'].get('value')

    def wait(self, expression):
        """Wait until an expression is true in the page."""
        deadline = time.monotonic() + self.timeout_s
        while not self.evaluate(f'Boolean({expression})'):
            assert time.monotonic() < deadline, f'in vain: {expression}; page: {self.complaints}'
            time.sleep(0.02)

    def go(self, url):
        """Open an address."""
        self.call('Page.navigate', url=url)

    def drag(self, points, button='left'):
        """Press at the first point, move over the others, release at the last one."""
        self._mouse('mouseMoved', points[0], 'none', 0)
        self._mouse('mousePressed', points[0], button, PRESSED[button])
        for point in points[1:]:
            self._mouse('mouseMoved', point, button, PRESSED[button])
        self._mouse('mouseReleased', points[-1], button, 0)

    def click(self, selector):
        """Click into the middle of an element."""
        box = self.evaluate(f'(({{x, y, width, height}}) => [x + width / 2, y + height / 2])'
                            f'(document.querySelector({selector!r}).getBoundingClientRect())')
        self.drag([box])

    def key(self, key, code=0, modifiers=0):
        """Press and release a key: its `key` value, and the virtual key code where it types no character."""
        text = {'text': key} if len(key) == 1 else {}
        facts = {'key': key, 'windowsVirtualKeyCode': code or ord(key[0].upper()), 'modifiers': modifiers}
        self.call('Input.dispatchKeyEvent', type='keyDown', **facts, **text)
        self.call('Input.dispatchKeyEvent', type='keyUp', **facts)

    def screenshot(self, path):
        """Write what the page shows as PNG."""
        path.write_bytes(base64.b64decode(self.call('Page.captureScreenshot', format='png')['data']))

    def _mouse(self, kind, point, button, buttons):
        self.call('Input.dispatchMouseEvent', type=kind, x=point[0], y=point[1], button=button,
                  buttons=buttons, clickCount=1, pointerType='mouse')

    def _message(self, deadline):
        while b'\0' not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, 'the browser does not answer'
            part = os.read(self._read, 1 << 16)
            assert part, 'the browser has ended'
            self._buffer += part
        first, _, self._buffer = self._buffer.partition(b'\0')
        return json.loads(first)

    def _note(self, event):
        method, parameters = event.get('method'), event.get('params', {})
        if method == 'Runtime.exceptionThrown':
            self.complaints.append(parameters['exceptionDetails'])
        elif method == 'Log.entryAdded' and parameters['entry']['level'] == 'error':
            self.complaints.append(parameters['entry'])
