"""Work in processes: in order, stopped by the first fault, and no process outlives the one that asked."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from genlib.data.workers import map_in_processes
from genlib.errors import GenlibError


def late_if_even(number: int) -> tuple[int, int]:
    time.sleep(0.02 * (number % 2 == 0))
    return number, os.getpid()


def refuse_five(number: int) -> int:
    if number == 5:
        raise GenlibError("five is refused")
    return number


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order_from_as_many_processes(workers: int) -> None:
    results = list(map_in_processes(late_if_even, range(20), workers))
    assert [number for number, _ in results] == list(range(20))
    processes = {process for _, process in results}
    assert processes == {os.getpid()} if workers == 1 else os.getpid() not in processes
    assert len(processes) <= workers
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fault_is_raised_here_and_stops_the_rest(workers: int) -> None:
    pieces = iter(range(10_000))
    with pytest.raises(GenlibError, match="five is refused"):
        list(map_in_processes(refuse_five, pieces, workers))
    assert next(pieces) < 50
    assert multiprocessing.active_children() == []


def test_a_killed_process_is_said_in_a_line() -> None:
    with pytest.raises(
        GenlibError, match="a worker process was killed, perhaps for want of memory; set GENLIB_WORKERS"
    ):
        list(map_in_processes(die, range(100), 2))


def test_workers_end_with_a_parent_that_is_killed() -> None:
    code = """
import multiprocessing, time
from genlib.data.workers import map_in_processes

def nap(number):
    time.sleep(0.01)

for _ in map_in_processes(nap, range(10**6), 2):
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.kill()
    deadline = time.monotonic() + 20
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, children))


def alive(process: int) -> bool:
    """Whether a process runs: one that ended may wait for someone to take note of it."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
