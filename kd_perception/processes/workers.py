# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Worker processes that end when their parent ends, however that happens, and put their files away first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
import multiprocessing
from multiprocessing.connection import Connection
import os
import signal
import threading
import time
from typing import Any

from kd_perception.errors import KdPerceptionError
from kd_perception.processes.interrupts import END_SIGNALS, exit_code

# A worker that does not come to Python's code in this time (a call into a library) is ended all the same.
_CLEAN_UP_S = 5.0


class _Stopped(BaseException):
    """This worker's call is not wanted any more."""


class _State:
    """What a worker does; `busy`: it runs a call, which clean-up belongs to."""

    busy = stopped = False


@contextmanager
def worker_pool(count: int) -> Iterator[Callable[[Callable, Iterable], Iterable]]:
    """
    Start workers, and yield a `map` that spreads calls over them; results are in order.

    Ctrl-C is the parent's affair. When the block is left with an exception, running calls are stopped where
    they are, by an exception of their own; a parent that was killed stops them too.

    :raises KdPerceptionError: from the `map`: a worker was killed.
    """
    # Not forked: onnxruntime's and OpenCV's threads do not survive a fork.
    context = multiprocessing.get_context('spawn')
    # Nothing is ever sent: the parent alone holds the other end, and its end is what workers wait for.
    stopped, parent = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(stopped,))

    def spread(function: Callable, items: Iterable) -> Iterable:
        with _blocked_signals():
            # Not `pool.map`: its end cancels what waits, and CPython's pool (until 3.12) then dies of a
            # worker's end with a traceback, its other workers unasked to end.
            futures = [pool.submit(_call, function, item) for item in items]
            # CPython's pool watches the workers that it knew at its last wake-up, which may lack the one that
            # was started last: its end would never be noticed. One more call wakes the pool with all started.
            pool.submit(_nothing)
        try:
            for future in futures:
                yield future.result()
        except BrokenProcessPool:
            raise KdPerceptionError('a worker process was killed; if memory was short, take fewer --jobs'
                                    ) from None

    try:
        yield spread
    except BaseException:
        parent.close()
        raise
    finally:
        pool.shutdown()
        parent.close()
        stopped.close()


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Hold signals back while workers start: they inherit that, and are deaf until `_begin` has run."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _nothing() -> None:
    """Do nothing."""


def _begin(parent: Connection) -> None:
    """Prepare a worker."""
    def stop(number: int, frame: Any) -> None:
        if not _State.busy and not _State.stopped:
            os._exit(exit_code(number))
        if not _State.stopped:      # once: a second signal would only disturb the clean-up
            _State.stopped = True
            raise _Stopped

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)


def _end_with(parent: Connection) -> None:
    """Wait until the parent closes its end or is gone; then stop this process."""
    parent.poll(None)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_CLEAN_UP_S)
    os._exit(1)


def _call(function: Callable, item: Any) -> Any:
    try:
        _State.busy = True
        return function(item)
    except _Stopped:
        # Not back into the pool, whose parent may wait for the end of this process and say no more to it.
        os._exit(exit_code(signal.SIGTERM))
    finally:
        _State.busy = False
