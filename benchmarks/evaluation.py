"""What measuring a trained model costs: seconds, seconds of CPU, memory.

    python -m benchmarks.evaluation mnist-gan [--lane presentation] [--out evaluation.json]

The stage evaluate runs in a process of its own, without tracking, and writes into a temporary folder; the run has to be
trained and its samples drawn. CPU seconds are those of all threads, so they mean something on a busy machine, too. A
second counts all samples of the evaluation: each set, floor and ceiling.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from genlib import params
from genlib.errors import GenlibError
from genlib.files import write_json
from stages.command import run


def main(
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml that is trained and sampled.")],
    lane: Annotated[str | None, typer.Option(help="Folder of runs that it is in; without it, the run's own.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Evaluate a run once and print what it cost."""
    loaded = params.load()
    settings = loaded.run(name)
    run_folder = Path("runs") / (lane or settings.lane) / name
    environment = os.environ | {"GENLIB_TRACKING": "off"}
    with tempfile.TemporaryDirectory() as folder:
        everything = Path(folder) / "evaluation.json"
        words = [
            *(sys.executable, "-m", "stages.evaluate", str(run_folder / "model.safetensors")),
            *("--samples", str(run_folder / "samples.npy"), "--data", f"data/processed/{settings.dataset}"),
            *("--network", f"data/features/{settings.features}/model.safetensors"),
            *("--out", str(everything), "--metrics", str(Path(folder) / "metrics.json")),
        ]
        before, began = _cpu_seconds(), time.perf_counter()
        done = subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=False)
        wall, cpu = time.perf_counter() - began, _cpu_seconds() - before
        if done.returncode != 0:
            raise GenlibError(f"{name}: stages.evaluate ended with {done.returncode}; mend what it says and try again")
        card = json.loads(everything.read_text())["card"]
    samples = card["samples"] * (card["sets"] + 2)
    results: dict[str, Any] = {
        "run": name,
        "samples": card["samples"],
        "sets": card["sets"],
        "reference": card["reference"],
        "threads": loaded.threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
        "seconds": wall,
        "cpu_seconds": cpu,
        "peak_gib": _peak_bytes() / 2**30,
        "samples_per_second": samples / wall,
        "samples_per_cpu_second": samples / cpu,
    }
    _print(results)
    if out is not None:
        write_json(out, results)


def _cpu_seconds() -> float:
    """CPU time of all processes started from here that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _peak_bytes() -> int:
    """Largest resident memory of a process started from here; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _print(results: Mapping[str, Any]) -> None:
    of = f"{results['sets']} sets of {results['samples']:,} samples against {results['reference']:,}"
    print(f"{results['run']}: {of}; {results['threads']} threads, {results['machine']}")
    print(f"{'seconds':>10}{'CPU':>8}{'peak GiB':>10}{'samples/s':>11}{'/s of CPU':>11}")
    print(
        f"{results['seconds']:10.1f}{results['cpu_seconds']:8.1f}{results['peak_gib']:10.2f}"
        f"{results['samples_per_second']:11.0f}{results['samples_per_cpu_second']:11.0f}"
    )


if __name__ == "__main__":
    run(main)
