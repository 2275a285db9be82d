"""Command repro, no stage of dvc.yaml: `dvc repro`, with stages that do not wait for each other side by side."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Annotated

import typer

from genlib import params
from genlib.errors import GenlibError
from genlib.schedule import Chain, chains, parse_dot, shares_of_time, to_run, with_ancestors
from stages.command import run

_MOST_JOBS = 8  # by default; each takes about 1 GiB
_BUSY = "Unable to acquire lock"  # --wait-for-lock does not hold for the smaller of DVC's two locks
_TRIES = 5

_BEGINS = re.compile(r"Running stage '([^']+)'")

_printing = threading.Lock()


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
    count = jobs or max(1, min(_MOST_JOBS, _cpus() // params.load().threads))
    graph = parse_dot(_answer("dag", "--dot"))
    if unknown := [stage for stage in wanted if stage not in graph]:
        raise GenlibError(f"{unknown[0]}: no such stage; dvc stage list --name-only has them all")
    needed = with_ancestors(graph, wanted or graph)
    graph = {stage: before for stage, before in graph.items() if stage in needed}
    stages = to_run(graph, json.loads(_answer("status", "--json", "--with-deps", *wanted) or "{}"))
    planned = chains(graph, stages)
    seconds: dict[str, float] = {}
    began = time.monotonic()
    failed = _run_all(planned, count, keep_going, seconds) if count > 1 and len(planned) > 1 else set()
    if seconds:
        print("\n".join(shares_of_time(seconds, time.monotonic() - began)), flush=True)
    if failed:
        names = ", ".join(stage for stage in graph if stage in failed)
        raise GenlibError(f"not done: {names}; see above, mend it and run again: what is done is kept")
    ended = subprocess.run(["dvc", "repro", *(["--keep-going"] if keep_going else []), *wanted], check=False)
    sys.exit(ended.returncode)


def _run_all(planned: list[Chain], count: int, keep_going: bool, seconds: dict[str, float]) -> set[str]:
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
                    running[pool.submit(_run_chain, chain, seconds)] = chain
            if not running:
                break  # what is left waits for what failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done |= {*running.pop(future).stages} - future.result()
                failed |= future.result()
    return failed


def _run_chain(chain: Chain, seconds: dict[str, float]) -> set[str]:
    """One `dvc repro` of the chain's stages, its lines passed on as they come; those that failed or came after."""
    for _ in range(_TRIES):
        busy, said = False, ""
        words = ["dvc", "--wait-for-lock", "repro", "--single-item", *chain.stages]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
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
    """What a dvc command prints; GenlibError with the last line of what it complains about."""
    done = subprocess.run(["dvc", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
        raise GenlibError(f"dvc {' '.join(words)}: {lines[0]}; mend that and run again")
    return done.stdout


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    run(main)
