# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Ctrl-C that does not get lost."""

import signal

import pytest

from kd_perception.processes.interrupts import remembered_interrupts


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_an_interrupt_is_raised_and_remembered_where_the_exception_gets_lost():
    class Swallows:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with remembered_interrupts(signal.SIGINT) as interrupted:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupted.is_set()
        interrupted.clear()
        thing = Swallows()
        del thing
        assert interrupted.is_set()
    assert signal.getsignal(signal.SIGINT) is before
