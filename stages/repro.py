"""Command repro, no stage of dvc.yaml: `dvc repro`, with stages that do not wait for each other side by side."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from genlib import params
from genlib.checkup import complaint
from genlib.errors import GenlibError
from genlib.schedule import Chain, chains, parse_dot, shares_of_time, to_run, with_ancestors
from genlib.terminal import Terminated
from stages.command import run

_MOST_JOBS = 8  # by default; each takes about 1 GiB
_BUSY = "Unable to acquire lock"  # --wait-for-lock does not hold for the smaller of DVC's two locks
_TRIES = 5
_BROKEN = re.compile(r"Unable to read RWLock-file '([^']+)'")
_ECHO_SECONDS = 1  # make and timeout pass on a signal that reaches this process by itself, too

_BEGINS = re.compile(r"Running stage '([^']+)'")

_printing = threading.Lock()


class _Commands:
    """The dvc commands at work. A signal to this process reaches each of them and its stage once, as Ctrl-C does; one
    that comes later kills them.

    Each is in a process group of its own, for a terminal sends Ctrl-C to the whole of a group.
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.RLock()  # a signal may come while another is answered
        self._signals: list[tuple[int, float]] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are passed on inside the block; at its end they are raised. Within it, call from other threads."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # nohup
                signal.signal(number, self._pass_on)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._raise()

    @contextmanager
    def started(self, *words: str, stdout: int | None = None) -> Iterator[subprocess.Popen[str]]:
        """One more command, waited for at the end; none is started after a signal (KeyboardInterrupt)."""
        with self._lock:
            self._raise()
            stderr = None if stdout is None else subprocess.STDOUT
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True, process_group=0
            )
            self._running.add(process)
        try:
            with process:
                yield process
        finally:
            with self._lock:
                self._running.remove(process)

    def call(self, *words: str) -> int:
        """Run a command, whose words go where this process's go; its exit status."""
        with self.started(*words) as process:
            return process.wait()

    def _pass_on(self, number: int, _: object) -> None:
        heard = number, time.monotonic()
        self._signals.append(heard)
        first = self._signals[0]
        if first is not heard and heard[1] - first[1] < _ECHO_SECONDS:
            return
        with self._lock:
            for process in self._running:
                with suppress(ProcessLookupError, PermissionError):  # it has just ended (macOS: EPERM)
                    os.killpg(process.pid, signal.SIGINT if first is heard else signal.SIGKILL)

    def _raise(self) -> None:
        if self._signals:
            raise KeyboardInterrupt if self._signals[0][0] == signal.SIGINT else Terminated


def main(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages of dvc.yaml; without any, all of them.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Chains of stages at once; without it, one for each `threads` CPUs, 8 at most."),
    ] = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Do what does not depend on what failed.")] = False,
) -> None:
    """Bring stages up to date as `dvc repro` does, several at once. The last word is dvc repro's own."""
    wanted = targets or []
    threads = params.load().threads  # with --jobs, too: a mistake is said before any stage runs
    count = jobs or max(1, min(_MOST_JOBS, _cpus() // threads))
    graph = parse_dot(_answer("dag", "--dot"))
    if unknown := [stage for stage in wanted if stage not in graph]:
        raise GenlibError(f"{unknown[0]}: no such stage; dvc stage list --name-only has them all")
    needed = with_ancestors(graph, wanted or graph)
    graph = {stage: before for stage, before in graph.items() if stage in needed}
    stages = to_run(graph, json.loads(_answer("status", "--json", "--with-deps", *wanted) or "{}"))
    planned = chains(graph, stages)
    seconds: dict[str, float] = {}
    began = time.monotonic()
    commands = _Commands()
    failed = set[str]()
    # dvc's own --keep-going would begin the next stage after Ctrl-C.
    if keep_going or (count > 1 and len(planned) > 1):
        with commands.listening():
            failed = _run_all(planned, count, keep_going, commands, seconds)
    if seconds:
        print("\n".join(shares_of_time(seconds, time.monotonic() - began)), flush=True)
    if failed:
        names = ", ".join(stage for stage in graph if stage in failed)
        raise GenlibError(f"not done: {names}; see above, mend it and run again: what is done is kept")
    with commands.listening(), ThreadPoolExecutor(1) as pool:
        sys.exit(pool.submit(commands.call, "dvc", "repro", *wanted).result())


def _run_all(
    planned: list[Chain], count: int, keep_going: bool, commands: _Commands, seconds: dict[str, float]
) -> set[str]:
    """Run the chains, at most `count` at once; the stages that failed. `seconds` receives the time of each stage."""
    pending, failed = list(planned), set[str]()
    done: set[str] = set()
    outside = {stage for chain in planned for stage in chain.stages}
    running: dict[Future[set[str]], Chain] = {}
    with ThreadPoolExecutor(count) as pool:
        while pending or running:
            # The last one first: of a dataset's runs that is the GAN, which takes longest.
            for chain in [chain for chain in reversed(pending) if chain.after & outside <= done]:
                if len(running) < count and (keep_going or not failed):
                    pending.remove(chain)
                    running[pool.submit(_run_chain, chain, commands, seconds)] = chain
            if not running:
                break  # what is left waits for what failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done |= {*running.pop(future).stages} - future.result()
                failed |= future.result()
    return failed


def _run_chain(chain: Chain, commands: _Commands, seconds: dict[str, float]) -> set[str]:
    """One `dvc repro` of the chain's stages, its lines passed on as they come; those that failed or came after."""
    for _ in range(_TRIES):
        busy, said = False, ""
        words = ["dvc", "--wait-for-lock", "repro", "--single-item", *chain.stages]
        with commands.started(*words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            stage, began = "", time.monotonic()
            for line in process.stdout:
                busy, said = busy or _BUSY in line, said + line
                if begins := _BEGINS.match(line):
                    stage, began = begins[1], time.monotonic()
                if stage:
                    seconds[stage] = time.monotonic() - began
                with _printing:
                    print(line, end="", flush=True)
        if process.returncode == 0:
            return set()
        if not busy:
            break
    named = re.findall(r"failed to reproduce '([^']+)'", said)
    return {*chain.stages[chain.stages.index(named[0]) :]} if named and named[0] in chain.stages else {*chain.stages}


def _answer(*words: str) -> str:
    """What a dvc command prints; GenlibError with what it complains about."""
    done = _dvc(*words)
    if broken := _BROKEN.search(done.stderr):  # a dvc was stopped as it wrote it: the locks in it are lost anyway
        Path(broken[1]).unlink(missing_ok=True)
        done = _dvc(*words)
    if done.returncode != 0:
        raise GenlibError(f"dvc {' '.join(words)}: {'; '.join(complaint(done.stderr))}")
    return done.stdout


def _dvc(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["dvc", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise GenlibError("dvc: not on the PATH; source .venv/bin/activate") from error


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    run(main)
