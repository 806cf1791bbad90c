# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The store keeps every version, and whatever stops it at whatever step, a reader finds one that is whole."""

import fcntl
import hashlib
import itertools
from pathlib import Path
import tempfile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, RuleBasedStateMachine
import pytest

from kd_perception.errors import ModelError
from kd_perception.models import store as model_store
from kd_perception.models.history import RoleHistory
from kd_perception.models.manifest import resolve_model
from kd_perception.models.store import Disk, ModelStore, StoreReference


def digest(content):
    return hashlib.sha256(content).hexdigest()


def add(store, content, role='student'):
    """Add a version of two files; return its number."""
    with store.locked(make=True):
        return store.add(role, [('model.onnx', content), ('report_1.json', b'{}')], digest(content), 'm')


def check(path):
    return digest(path.read_bytes()), 'm'


class PowerCut(BaseException):
    """The machine stops here."""


class QuickDisk(Disk):
    """Does not wait for the disk."""

    def write(self, path, content):
        with open(path, 'xb') as file:
            file.write(content)

    def sync_folder(self, folder):
        pass


class FailingDisk(QuickDisk):
    """
    A disk on which the step of number `after` fails, with half of a file written.

    :param error: an OSError fails this and every later write, as a full disk does; PowerCut ends everything.
    """

    def __init__(self, after, error):
        self._left, self._error, self.failed = after, error, False

    def _step(self, half=lambda: None):
        if self._left == 0 or self.failed and self._error is PowerCut:
            if not self.failed:
                half()
            self.failed = True
            raise PowerCut if self._error is PowerCut else OSError(28, 'No space left')
        self._left -= 1

    def make_folder(self, parent):
        self._step()
        return super().make_folder(parent)

    def write(self, path, content):
        self._step(lambda: path.write_bytes(content[:len(content) // 2]))
        super().write(path, content)

    def rename(self, source, target):
        self._step()
        super().rename(source, target)

    def sync_folder(self, folder):
        self._step()

    def remove(self, path):
        if self.failed and self._error is PowerCut:
            raise self._error
        super().remove(path)


class StoreMachine(RuleBasedStateMachine):
    """Promotions, rollbacks and prunings, any stopped at any step; a plain model says what must hold."""

    @initialize(versions=st.integers(0, 3))
    def begin(self, versions):
        self.root = tempfile.TemporaryDirectory()
        self.store = ModelStore(Path(self.root.name) / 'store', QuickDisk(), lambda: 'now')
        self.contents = {}          # version -> content, of those that were current at any time
        self.line, self.pruned = [], set()
        self.serial = itertools.count()
        for _ in range(versions):
            self.promote_one(None)
            self.a_reader_finds_what_must_be_there()

    def teardown(self):
        if hasattr(self, 'root'):
            self.root.cleanup()

    def attempt(self, act, done, stop):
        """
        Run a change, stopped at a step or not; take over what the store says came of it.

        :param done: brings the model to where it must be if the change took place.
        """
        before = list(self.line)
        if stop is None:
            done(act(self.store))
            return
        disk = FailingDisk(*stop)
        try:
            result = act(ModelStore(self.store.folder, disk, lambda: 'now'))
        except (PowerCut, ModelError):
            assert disk.failed
            # All or nothing: what is not the state of before is wholly that of after.
            events = self.store.history('student').events if self.store.folder.is_dir() else ()
            if len(events) > self.event_count:
                done(events[-1].version)
            else:
                assert self.line == before
        else:
            done(result)

    @property
    def others(self):
        """Versions that are there and not current."""
        return sorted(set(self.contents) - self.pruned - set(self.line[-1:]))

    @property
    def event_count(self):
        return self._event_count if hasattr(self, '_event_count') else 0

    def stops(steps):
        return st.none() | st.tuples(st.integers(0, steps), st.sampled_from([PowerCut, OSError]))

    @rule(stop=stops(11))
    def promote(self, stop):
        self.promote_one(stop)

    def promote_one(self, stop):
        content = f'model {next(self.serial)}'.encode() * 3

        def done(version):
            assert version not in self.contents, 'a version is never overwritten'
            self.contents[version] = content
            self.line.append(version)
        self.attempt(lambda store: add(store, content), done, stop)

    @precondition(lambda self: len(self.line) > 1)
    @rule(stop=stops(3))
    def roll_back(self, stop):
        self.attempt(lambda store: store.roll_back('student', None, check).version,
                     lambda version: self.line.pop(), stop)

    @precondition(lambda self: self.others)
    @rule(stop=stops(3), data=st.data())
    def roll_back_to(self, stop, data):
        target = data.draw(st.sampled_from(self.others))

        def done(version):
            assert version == target
            if target in self.line:
                del self.line[self.line.index(target) + 1:]
            else:
                self.line.append(target)
        self.attempt(lambda store: store.roll_back('student', target, check).version, done, stop)

    @precondition(lambda self: self.others)
    @rule(stop=stops(4), data=st.data())
    def prune(self, stop, data):
        target = data.draw(st.sampled_from(self.others))

        def done(_):
            self.pruned.add(target)
            self.line = [version for version in self.line if version != target]
        self.attempt(lambda store: store.prune('student', target), done, stop)

    @invariant()
    def a_reader_finds_what_must_be_there(self):
        if not hasattr(self, 'line') or not self.store.folder.is_dir():
            return
        history = self.store.history('student')
        self._event_count = len(history.events)
        assert list(history.line) == self.line
        assert history.current == (self.line[-1] if self.line else None)
        if self.line:
            path = resolve_model(f'store:{self.store.folder}#student', '/nowhere')
            assert path.read_bytes() == self.contents[self.line[-1]]
        for version, content in self.contents.items():
            if version not in self.pruned:
                assert self.store.model_file('student', version).read_bytes() == content, 'nothing is lost'
            else:
                with pytest.raises(ModelError, match=f'has no version {version}'):
                    self.store.model_file('student', version)


StoreMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=10, deadline=None)
TestAnyOrderOfChangesAndFaults = StoreMachine.TestCase


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / 'store')


@pytest.mark.parametrize('error', [PowerCut, OSError])
def test_every_step_of_a_promotion_may_be_the_last(tmp_path, error):
    """Each step in turn."""
    outcomes = []
    for step in range(30):
        folder = tmp_path / str(step)
        add(ModelStore(folder), b'old')
        disk = FailingDisk(step, error)
        try:
            add(ModelStore(folder, disk), b'new')
        except (PowerCut, ModelError) as raised:
            if error is OSError:
                assert str(raised).startswith(f'{folder}: cannot be written (No space left')
        store = ModelStore(folder)
        outcomes.append(store.model_file('student').read_bytes())
        with store.locked():
            pass
        left = [path.name for path in (folder / 'student').iterdir() if path.name.startswith('.')]
        assert not left, 'what was half-written is gone'
        add(store, b'newest')
        assert store.model_file('student').read_bytes() == b'newest'
        if not disk.failed:
            break
    assert len(outcomes) > 8
    assert outcomes == sorted(outcomes, reverse=True), 'one step switches, all before leave it as it was'
    assert set(outcomes) == {b'old', b'new'}


def test_one_process_at_a_time(store):
    add(store, b'one')
    with open(store.folder / '.lock') as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for act in (lambda: add(store, b'two'), lambda: store.roll_back('student', 1, check),
                    lambda: store.prune('student', 1)):
            with pytest.raises(ModelError, match='another promotion or rollback is under way'):
                act()
        assert store.model_file('student').read_bytes() == b'one', 'readers need no lock'
    assert add(store, b'two') == 2


def test_what_cannot_be_done_changes_nothing(store):
    for act in (lambda: store.roll_back('student', None, check), lambda: store.prune('student', 1)):
        with pytest.raises(ModelError, match='no such model store'):
            act()
    add(store, b'one')
    add(store, b'two')
    before = store.history('student')
    for act, message in ((lambda: store.roll_back('student', 2, check), 'is the current student already'),
                         (lambda: store.roll_back('student', 9, check), 'has no version 9; there: 1, 2'),
                         (lambda: store.prune('student', 2), 'version 2 is the current student'),
                         (lambda: store.prune('student', 9), 'has no version 9')):
        with pytest.raises(ModelError, match=message):
            act()
    assert store.history('student') == before
    store.prune('student', 1)
    with pytest.raises(ModelError, match='there is no student before the current one'):
        store.roll_back('student', None, check)


def test_roles_are_apart(store):
    add(store, b'one')
    add(store, b'big', 'teacher')
    assert store.model_file('teacher').read_bytes() == b'big'
    assert store.model_file('student').read_bytes() == b'one'


def test_a_rollback_refuses_a_damaged_version(store):
    add(store, b'one')
    add(store, b'two')

    def damaged(path):
        raise ModelError(f'{path}: sha256 is x, expected y')
    with pytest.raises(ModelError, match='000001/model.onnx: sha256'):
        store.roll_back('student', None, damaged)
    assert store.history('student').current == 2


def test_what_was_rolled_back_from_is_not_gone_back_to(store):
    for content in (b'one', b'two'):
        add(store, content)
    store.roll_back('student', None, check)
    add(store, b'three')
    assert store.history('student').line == (1, 3)
    assert store.roll_back('student', None, check).version == 1
    assert store.roll_back('student', 2, check).before == 1, 'but it is kept'


@pytest.mark.parametrize('text, message', [
    ('store:', 'expected store:FOLDER#ROLE'), ('store:x', 'expected store:FOLDER#ROLE'),
    ('store:x#judge', 'one of student, teacher'), ('store:x#student@', 'expected'),
    ('store:x#student@-1', 'expected'), ('store:x#student', 'x: no such model store'),
])
def test_references_that_lead_nowhere(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=message):
        resolve_model(text, tmp_path)


def test_references(store):
    assert StoreReference.parse('student') is None and StoreReference.parse('/store:/x.onnx') is None
    add(store, b'one')
    add(store, b'two')
    name = f'store:{store.folder}#student'
    assert resolve_model(name, '').read_bytes() == b'two'
    assert resolve_model(f'{name}@1', '').read_bytes() == b'one'
    for text, message in ((f'{name}@3', 'has no version 3; there: 1, 2'),
                          (f'store:{store.folder}#teacher', 'no teacher was promoted yet')):
        with pytest.raises(ModelError, match=message):
            resolve_model(text, '')


@pytest.mark.parametrize('change, message', [
    (lambda text: text.replace('"current": 2', '"current": 1'), 'current is 1, the events lead to 2'),
    (lambda text: text.replace('"format_version": 1', '"format_version": 7'), 'format_version is 7'),
    (lambda text: text[:len(text) // 2], 'is not JSON'),
    (lambda text: text + ' ' * (1 << 20), 'more than 1048576 bytes'),
    (lambda text: text.replace('promote', 'promise'), 'action'),
    (lambda text: '', 'is not JSON'),
])
def test_a_damaged_history_is_one_clear_line(store, change, message):
    add(store, b'one')
    add(store, b'two')
    path = store.folder / 'student' / 'history.json'
    path.write_text(change(path.read_text()))
    with pytest.raises(ModelError, match=message) as caught:
        store.model_file('student')
    assert 'history.json' in str(caught.value) and '\n' not in str(caught.value)


def test_a_history_that_is_gone_lets_numbers_go_on(store):
    add(store, b'one')
    (store.folder / 'student' / 'history.json').unlink()
    assert store.history('student') == RoleHistory()
    assert add(store, b'two') == 2, 'nothing is overwritten'


def test_a_history_that_is_full_refuses_the_next_promotion(store, monkeypatch):
    monkeypatch.setattr(model_store, 'MAX_HISTORY_BYTES', 700)
    add(store, b'one')
    with pytest.raises(ModelError, match='is full') as caught:
        for _ in range(9):
            add(store, b'two')
    assert 'history.json' in str(caught.value)
    assert store.model_file('student').is_file() and store.history('student').current < 9
