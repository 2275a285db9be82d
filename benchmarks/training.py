"""genlib's training against the loop that tutorials show: images per second, time to the first step, peak memory.

    python -m benchmarks.training [RUN ...] [--data data/processed] [--device cpu] [--threads 1] [--rounds 5]
        [--seconds 1] [--workers N] [--precision float32] [--side-by-side] [--out training.json]

Both train the same networks on the same images in processes of their own, in turns; shown are medians over the rounds,
and medians of the ratios of the two turns of a round. The textbook's DataLoader has the number of worker processes that
is best of 0, 1 and 2, on a CUDA device of 0, 2, 4 and 8, or the given one. The ratio per second of CPU counts the time
of all threads of the training process, not that of the loader's workers; it means something on a busy machine, too.
`share` is what a training's matrix products and convolutions reach of the machine's rate of float32 matrix products,
both per second of CPU, in the same rounds and with as many threads. `moved` is the same of its memory's rate (STREAM's
triad on arrays of 1.5 GiB in all): the bytes that genlib's operators name, each input read and each output written
once, for both loops (`benchmarks.contestant.Moved`). `bare` says that the comparison is fair: both without a loader and
with what is freed kept, genlib without the rest of what makes it fast; the ratio of their rates per second of CPU
should be 1. Memory is that of the training process, without the loader's workers. Where a dataset is not at hand, the
images are random ones.

On a CUDA device, `share` and `moved` are per second and of the device's rates, memory is the device's, and `bare` is
left out. There the textbook's convolutions are computed in TF32, as torch does unless it is told otherwise, and
genlib's as --precision or the run says.

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
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.contestant import COUNTS_WORK
from genlib import params
from genlib.errors import GenlibError
from genlib.files import write_json
from stages.command import run

WORKERS = {"cpu": (0, 1, 2), "cuda": (0, 2, 4, 8)}
KINDS = {"cpu": ("textbook", "genlib", "textbook-bare", "genlib-bare"), "cuda": ("textbook", "genlib")}
CEILINGS = ("matmul", "triad")
_LEAST_STEPS = 3
_TRIAL_ROUNDS = 2

Measured = dict[str, float]


class Device(StrEnum):
    """Where trainings run."""

    cpu = "cpu"
    cuda = "cuda"


class Precision(StrEnum):
    """As in params.yaml."""

    float32 = "float32"
    tf32 = "tf32"
    bf16 = "bf16"


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


@dataclass(frozen=True)
class Race:
    """On what all run: data, device (cpu or cuda), threads; `precision`: genlib's, None for that of the run."""

    data: Path
    device: str
    threads: int
    precision: str | None = None

    def words(self) -> list[str]:
        """As `benchmarks.contestant` takes it."""
        precision = [] if self.precision is None else ["--precision", self.precision]
        return ["--data", str(self.data), "--threads", str(self.threads), *precision]


@contextmanager
def contestant(kind: str, name: str, race: Race, workers: int = 0) -> Iterator[Contestant]:
    """Start one and wait for its first step; GenlibError if it does not get there."""
    words = [sys.executable, "-m", "benchmarks.contestant", kind, name, *race.words()]
    words += ["--workers", str(workers), "--began", repr(time.time())]
    environment = os.environ | {"GENLIB_DEVICE": race.device}
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
    on: Annotated[Device, typer.Option("--device", help="Where to train.")] = Device.cpu,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each training; without it, those of params.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each has its turn.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.01, help="Of a turn, three steps at least.")] = 1.0,
    workers: Annotated[int | None, typer.Option(min=0, help="Of the textbook's loader; without it, the best.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="Genlib's; without it, that of each run.")] = None,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Two trainings of one thread at once.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measure runs and print a table."""
    loaded = params.load()
    wanted = names or list(loaded.runs)
    for name in wanted:
        loaded.run(name)
    if on is Device.cuda and not torch.cuda.is_available():
        raise GenlibError("--device cuda: torch sees no CUDA device; leave it out, or mend the driver")
    if side_by_side and workers is not None:
        raise GenlibError("--workers: trainings side by side have no loader's processes; leave it out")
    race = Race(data, on.value, threads or loaded.threads, precision and precision.value)
    machine = f"{_processor(race.device)}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    results: dict[str, Any] = {"machine": machine, "rounds": rounds, "seconds": seconds, "runs": {}}
    results |= {"device": race.device, "precision": race.precision}
    if side_by_side:
        print(f"{machine}; images/s of two trainings with one thread each, and of one with two threads")
        print(f"{'':20}{'textbook 2 x 1':>15}{'1 x 2':>8}{'genlib 2 x 1':>14}{'1 x 2':>8}{'ratio 2 x 1':>13}")
    else:
        print(f"{machine}; {race.threads} threads{f'; {race.precision}' if race.precision else ''}")
        print(
            f"{'':20}{'images/s':>18}{'':9}{'/s of CPU':>9}{'share':>12}{'moved':>12}{'first step s':>14}"
            f"{'peak MiB':>14}{'workers':>9}{'bare':>7}\n"
            f"{'':20}" + f"{'textbook':>9}{'genlib':>9}{'ratio':>9}{'ratio':>9}"
        )
    with ExitStack() as stack:
        ceilings = {}
        if not side_by_side:
            ceilings = {kind: stack.enter_context(contestant(kind, wanted[0], race)) for kind in CEILINGS}
        for name in wanted:
            if side_by_side:
                results["runs"][name] = row = pairs(name, race, rounds, seconds)
                _print_pairs(name, row)
            else:
                results["runs"][name] = row = compare(name, race, ceilings, rounds, seconds, workers)
                _print(name, row)
    if out is not None:
        write_json(out, results)


def compare(
    name: str,
    race: Race,
    ceilings: Mapping[str, Contestant],
    rounds: int,
    seconds: float,
    workers: int | None = None,
) -> dict[str, Any]:
    """All that is measured of one run; `workers` of the textbook's loader, None for the best number of them."""
    kinds = KINDS[race.device]
    turns: dict[str, list[Measured]] = {kind: [] for kind in (*kinds, *CEILINGS)}
    with ExitStack() as stack:
        if workers is None:
            textbook, workers = _best_textbook(stack, name, race, seconds)
        else:
            textbook = stack.enter_context(contestant("textbook", name, race, workers))
        racing = {"textbook": textbook, **ceilings}
        racing |= {kind: stack.enter_context(contestant(kind, name, race)) for kind in kinds[1:]}
        for number in range(rounds):
            for kind in turns if number % 2 == 0 else reversed(turns):
                turns[kind].append(racing[kind].turn(seconds))
        first = {kind: racing[kind].first for kind in kinds}
    rates = {kind: [turn["images_per_second"] for turn in turns[kind]] for kind in turns}
    of_cpu = {kind: [turn["images_per_cpu_second"] for turn in turns[kind]] for kind in turns}
    busy = of_cpu if race.device == "cpu" else rates  # a GPU's time is that of the clock
    matmul, triad = (statistics.median(busy[kind]) for kind in CEILINGS)
    work = first[COUNTS_WORK[race.device]]
    gflop, gigabytes = (work[f"{what}_per_image"] / 1e9 for what in ("flops", "bytes"))
    return {
        "images": first["genlib"]["source"],
        "threads": race.threads,
        "workers": workers,
        "matmul_gflops": matmul,
        "mflop_per_image": gflop * 1e3,
        "triad_gigabytes_per_second": triad,
        "megabytes_per_image": gigabytes * 1e3,
        "ratio": _median_ratio(rates["genlib"], rates["textbook"]),
        "ratio_cpu": _median_ratio(of_cpu["genlib"], of_cpu["textbook"]),
        "ratio_bare": _median_ratio(of_cpu[kinds[-1]], of_cpu[kinds[-2]]) if "genlib-bare" in kinds else None,
    } | {
        kind.replace("-", "_"): {
            "images_per_second": statistics.median(rates[kind]),
            "images_per_cpu_second": statistics.median(of_cpu[kind]),
            "share_of_matmul": statistics.median(busy[kind]) * gflop / matmul,
            "share_of_triad": statistics.median(busy[kind]) * gigabytes / triad,
            "first_step_seconds": first[kind]["first_step_seconds"],
            "peak_mib": turns[kind][-1]["peak_mib"],
        }
        for kind in kinds
    }


def pairs(name: str, race: Race, rounds: int, seconds: float) -> dict[str, Any]:
    """Two trainings of one thread each at once, and one of two threads, of both loops, in turns."""
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        racing = {}
        for kind in ("textbook", "genlib"):
            for at_once, threads in ((2, 1), (1, 2)):
                racing[f"{kind}_{at_once}x{threads}"] = [
                    stack.enter_context(contestant(kind, name, replace(race, threads=threads))) for _ in range(at_once)
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


def _best_textbook(stack: ExitStack, name: str, race: Race, seconds: float) -> tuple[Contestant, int]:
    """The textbook's loop with the number of worker processes that makes it fastest, and that number."""
    tried = WORKERS[race.device]
    with ExitStack() as trial:
        racing, stacks = {}, {}
        for n in tried:
            stacks[n] = trial.enter_context(ExitStack())
            racing[n] = stacks[n].enter_context(contestant("textbook", name, race, n))
        rates: dict[int, list[float]] = {n: [] for n in tried}
        for _ in range(_TRIAL_ROUNDS):
            for n in tried:
                rates[n].append(racing[n].turn(seconds)["images_per_second"])
        best = max(tried, key=lambda n: max(rates[n]))
        stack.push(stacks[best].pop_all())
    return racing[best], best


def _line(process: "subprocess.Popen[str]") -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        words: Any = process.args
        raise GenlibError(f"{' '.join(words[3:5])}: it ended early; mend what it says above and try again")
    return json.loads(line)


def _median_ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _processor(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
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
        f"{theirs['peak_mib']:7.0f}{ours['peak_mib']:7.0f}{row['workers']:9}"
        + ("" if row["ratio_bare"] is None else f"{row['ratio_bare']:7.2f}"),
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
