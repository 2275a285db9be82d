"""genlib's training against the loop that tutorials show: images per second, time to the first step, peak memory.

    python -m benchmarks.training [RUN ...] [--data data/processed] [--threads 1] [--rounds 5] [--seconds 1]
        [--side-by-side] [--out training.json]

Both train the same networks on the same images in processes of their own, in turns; shown are medians over the rounds,
and medians of the ratios of the two turns of a round. The textbook's DataLoader has the number of worker processes that
is best of 0, 1 and 2. The ratio per second of CPU counts the time of all threads of the training process, not that of
the loader's workers; it means something on a busy machine, too. `share` is what a training's matrix products and
convolutions reach of the machine's rate of float32 matrix products, both per second of CPU, in the same rounds and with
as many threads. `moved` is the same of its memory's rate (STREAM's triad on arrays of 1.5 GiB in all): the bytes that
genlib's operators name, each input read and each output written once, for both loops (`benchmarks.contestant.Moved`).
`bare` says that the comparison is fair: both without a loader and with what is freed kept, genlib without the rest of
what makes it fast; the ratio of their rates per second of CPU should be 1. Memory is that of the training process,
without the loader's workers. Where a dataset is not at hand, the images are random ones.

With --side-by-side: two trainings at once with one thread each, as `python -m stages.repro` runs them, against one with
two threads; images per second of both trainings together.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from genlib import params
from genlib.errors import GenlibError
from genlib.files import write_json
from stages.command import run

WORKERS = (0, 1, 2)
KINDS = ("textbook", "genlib", "textbook-bare", "genlib-bare", "matmul", "triad")
CEILINGS = ("matmul", "triad")
_LEAST_STEPS = 3
_TRIAL_ROUNDS = 2

Measured = dict[str, float]


@dataclass(frozen=True)
class Contestant:
    """A training in its own process (`benchmarks.contestant`); `first`: what it said after its first step."""

    process: "subprocess.Popen[str]"
    first: dict[str, Any]

    def go(self, seconds: float, steps: int = _LEAST_STEPS) -> None:
        """Let it train for so long, and at least so many steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds} {steps}\n")
        self.process.stdin.flush()

    def said(self) -> Measured:
        """What it measured in its turn."""
        measured: Measured = _line(self.process)
        return measured

    def turn(self, seconds: float) -> Measured:
        """One turn alone."""
        self.go(seconds)
        return self.said()


@contextmanager
def contestant(kind: str, name: str, data: Path, threads: int, workers: int = 0) -> Iterator[Contestant]:
    """Start one and wait for its first step; GenlibError if it does not get there."""
    words = [sys.executable, "-m", "benchmarks.contestant", kind, name, "--data", str(data)]
    words += ["--threads", str(threads), "--workers", str(workers), "--began", repr(time.time())]
    environment = os.environ | {"GENLIB_DEVICE": "cpu"}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield Contestant(process, _line(process))
        finally:
            assert process.stdin is not None
            process.stdin.close()


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs of params.yaml; without any, all of them.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder of processed datasets.")] = Path("data/processed"),
    threads: Annotated[int | None, typer.Option(min=1, help="Of each training; without it, those of params.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each has its turn.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.01, help="Of a turn, three steps at least.")] = 1.0,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Two trainings of one thread at once.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measure runs and print a table."""
    loaded = params.load()
    wanted = names or list(loaded.runs)
    for name in wanted:
        loaded.run(name)
    count = threads or loaded.threads
    machine = f"{_processor()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    results: dict[str, Any] = {"machine": machine, "rounds": rounds, "seconds": seconds, "runs": {}}
    if side_by_side:
        print(f"{machine}; images/s of two trainings with one thread each, and of one with two threads")
        print(f"{'':20}{'textbook 2 x 1':>15}{'1 x 2':>8}{'genlib 2 x 1':>14}{'1 x 2':>8}{'ratio 2 x 1':>13}")
    else:
        print(f"{machine}; {count} threads")
        print(
            f"{'':20}{'images/s':>18}{'':9}{'/s of CPU':>9}{'share':>12}{'moved':>12}{'first step s':>14}"
            f"{'peak MiB':>14}{'workers':>9}{'bare':>7}\n"
            f"{'':20}" + f"{'textbook':>9}{'genlib':>9}{'ratio':>9}{'ratio':>9}"
        )
    for name in wanted:
        if side_by_side:
            results["runs"][name] = row = pairs(name, data, rounds, seconds)
            _print_pairs(name, row)
        else:
            results["runs"][name] = row = compare(name, data, count, rounds, seconds)
            _print(name, row)
    if out is not None:
        write_json(out, results)


def compare(name: str, data: Path, threads: int, rounds: int, seconds: float) -> dict[str, Any]:
    """All that is measured of one run with so many threads."""
    turns: dict[str, list[Measured]] = {kind: [] for kind in KINDS}
    with ExitStack() as stack:
        racing, workers = _best_textbook(stack, name, data, threads, seconds)
        racing |= {kind: stack.enter_context(contestant(kind, name, data, threads)) for kind in KINDS[1:]}
        for number in range(rounds):
            for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
                turns[kind].append(racing[kind].turn(seconds))
        first = {kind: racing[kind].first for kind in KINDS}
    rates = {kind: [turn["images_per_second"] for turn in turns[kind]] for kind in KINDS}
    of_cpu = {kind: [turn["images_per_cpu_second"] for turn in turns[kind]] for kind in KINDS}
    matmul, triad = (statistics.median(of_cpu[kind]) for kind in CEILINGS)
    gflop, gigabytes = (first["genlib-bare"][f"{what}_per_image"] / 1e9 for what in ("flops", "bytes"))
    return {
        "images": first["genlib"]["source"],
        "threads": threads,
        "workers": workers,
        "matmul_gflops": matmul,
        "mflop_per_image": gflop * 1e3,
        "triad_gigabytes_per_second": triad,
        "megabytes_per_image": gigabytes * 1e3,
        "ratio": _median_ratio(rates["genlib"], rates["textbook"]),
        "ratio_cpu": _median_ratio(of_cpu["genlib"], of_cpu["textbook"]),
        "ratio_bare": _median_ratio(of_cpu["genlib-bare"], of_cpu["textbook-bare"]),
    } | {
        kind.replace("-", "_"): {
            "images_per_second": statistics.median(rates[kind]),
            "images_per_cpu_second": statistics.median(of_cpu[kind]),
            "share_of_matmul": statistics.median(of_cpu[kind]) * gflop / matmul,
            "share_of_triad": statistics.median(of_cpu[kind]) * gigabytes / triad,
            "first_step_seconds": first[kind]["first_step_seconds"],
            "peak_mib": turns[kind][-1]["peak_mib"],
        }
        for kind in KINDS
        if kind not in CEILINGS
    }


def pairs(name: str, data: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Two trainings of one thread each at once, and one of two threads, of both loops, in turns."""
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        racing = {}
        for kind in ("textbook", "genlib"):
            for at_once, threads in ((2, 1), (1, 2)):
                racing[f"{kind}_{at_once}x{threads}"] = [
                    stack.enter_context(contestant(kind, name, data, threads)) for _ in range(at_once)
                ]
        for _ in range(rounds):
            for key, together in racing.items():
                for one in together:
                    one.go(seconds)
                rates.setdefault(key, []).append(sum(one.said()["images_per_second"] for one in together))
    return {key: statistics.median(values) for key, values in rates.items()} | {
        "ratio_2x1": _median_ratio(rates["genlib_2x1"], rates["textbook_2x1"]),
        "ratio_1x2": _median_ratio(rates["genlib_1x2"], rates["textbook_1x2"]),
    }


def _best_textbook(
    stack: ExitStack, name: str, data: Path, threads: int, seconds: float
) -> tuple[dict[str, Contestant], int]:
    """The textbook's loop with the number of worker processes that makes it fastest, and that number."""
    with ExitStack() as trial:
        racing, stacks = {}, {}
        for n in WORKERS:
            stacks[n] = trial.enter_context(ExitStack())
            racing[n] = stacks[n].enter_context(contestant("textbook", name, data, threads, n))
        rates: dict[int, list[float]] = {n: [] for n in WORKERS}
        for _ in range(_TRIAL_ROUNDS):
            for n in WORKERS:
                rates[n].append(racing[n].turn(seconds)["images_per_second"])
        best = max(WORKERS, key=lambda n: max(rates[n]))
        stack.push(stacks[best].pop_all())
    return {"textbook": racing[best]}, best


def _line(process: "subprocess.Popen[str]") -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        words: Any = process.args
        raise GenlibError(f"{' '.join(words[3:5])}: it ended early; mend what it says above and try again")
    return json.loads(line)


def _median_ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    named = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return named[0].partition(": ")[2] if named else platform.machine()


def _print(name: str, row: Mapping[str, Any]) -> None:
    theirs, ours = row["textbook"], row["genlib"]
    print(
        f"{name:20}{theirs['images_per_second']:9.0f}{ours['images_per_second']:9.0f}{row['ratio']:9.2f}{row['ratio_cpu']:9.2f}"
        f"{theirs['share_of_matmul']:6.2f}{ours['share_of_matmul']:6.2f}"
        f"{theirs['share_of_triad']:6.2f}{ours['share_of_triad']:6.2f}"
        f"{theirs['first_step_seconds']:7.1f}{ours['first_step_seconds']:7.1f}"
        f"{theirs['peak_mib']:7.0f}{ours['peak_mib']:7.0f}{row['workers']:9}{row['ratio_bare']:7.2f}",
        flush=True,
    )


def _print_pairs(name: str, row: Mapping[str, Any]) -> None:
    print(
        f"{name:20}{row['textbook_2x1']:15.0f}{row['textbook_1x2']:8.0f}{row['genlib_2x1']:14.0f}"
        f"{row['genlib_1x2']:8.0f}{row['ratio_2x1']:13.2f}",
        flush=True,
    )


if __name__ == "__main__":
    run(main)
