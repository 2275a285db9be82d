"""Work spread over processes, results in order; whatever stops one stops all."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from genlib.errors import GenlibError

_AHEAD = 3  # pieces of work per process that wait or are done and not yet taken

_Work = TypeVar("_Work")
_Result = TypeVar("_Result")


def map_in_processes(function: Callable[[_Work], _Result], pieces: Iterable[_Work], workers: int) -> Iterator[_Result]:
    """`function` of each piece, in their order, by `workers` processes; one worker is this process itself.

    Function, pieces and results are pickled. A bounded number of pieces is taken ahead. What a piece raises is raised
    here; GenlibError if a process was killed.
    """
    if workers == 1:
        yield from map(function, pieces)
        return
    # Forking takes milliseconds, but is safe only before this process has started threads that hold locks; elsewhere
    # than on Linux, system libraries start such.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pending: deque[Future[_Result]] = deque()
    with ProcessPoolExecutor(workers, context, _initialize) as pool:
        try:
            for piece in pieces:
                pending.append(pool.submit(function, piece))
                if len(pending) > workers * _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise GenlibError(
                "a worker process was killed, perhaps for want of memory; set GENLIB_WORKERS=1 and run dvc repro"
            ) from error
        finally:
            for future in pending:
                future.cancel()


def _initialize() -> None:
    """Leave Ctrl-C to the parent, end at once when told to, and never outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
