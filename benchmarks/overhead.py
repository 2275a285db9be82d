"""What the pipeline costs beside its work: DVC with nothing to do, and a stage around what it does.

    python -m benchmarks.overhead [--rounds 3] [--out overhead.json]

Both in temporary copies of the project, never in the project itself. First `dvc repro` with nothing to do, of all
stages and of present@demo, against the same of two pipelines of as many stages, each with one dependency, one output
and a command that does nothing; outputs are stand-ins of a few bytes in all. In the `plain` one, each stage reads one
parameter of the same params.yaml, in the `bare` one none. The fair comparison is the one with `plain`: DVC parses
params.yaml anew for every stage that reads a parameter, so whoever keeps settings there pays for it, with however few
dependencies. Then every stage of a pipeline of tiny runs: its process from start to end, against one that only imports
the modules that it had loaded. What is over is the stage's overhead and its work on tiny data. Shown are medians, the
sides taking turns; ratios of CPU are those of seconds of CPU, which other work disturbs less.
"""

import json
import os
import platform
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from genlib.errors import GenlibError
from genlib.files import write_json
from stages.command import run

ROOT = Path(__file__).resolve().parent.parent
MOST_RATIO = 1.5
"""The most that a `dvc repro` with nothing to do may take, in times of that of the plain pipeline with parameters."""
MOST_SECONDS = 1.0
"""The most that a stage may take beyond its imports, its work on tiny data included."""

_HEAVY = ("torch", "torchvision", "mlflow")
_PARTS = ("genlib", "stages", "comparisons", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml")
_TARGET = "present@demo"
_PARAMETER = "seed"
_SIDES = ("bare", "plain", "genlib")

# Runs the module named first with the rest as its arguments, and writes the names of what it has loaded to a file.
_RECORDER = """
import atexit, json, pathlib, runpy, sys
path, module, *arguments = sys.argv[1:]
atexit.register(lambda: pathlib.Path(path).write_text(json.dumps([
    name for name, loaded in list(sys.modules.items()) if getattr(loaded, "__spec__", None) is not None])))
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__")
"""
# Imports the modules of such a file, all but the project's own.
_IMPORTER = """
import importlib, json, pathlib, sys
for name in json.loads(pathlib.Path(sys.argv[1]).read_text()):
    if name.partition(".")[0] not in ("genlib", "stages", "__main__"):
        try:
            importlib.import_module(name)
        except (ImportError, AttributeError):
            pass
"""


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each is timed.")] = 3,
    stages: Annotated[bool, typer.Option(help="Time the stages, too.")] = True,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measure both and print tables."""
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}, {rounds} rounds")
    results: dict[str, Any] = {"machine": machine, "rounds": rounds, "nothing_to_do": nothing_to_do(rounds)}
    print(f"{'nothing to do':16}{'stages':>8}" + "".join(f"{side + ' s':>10}" for side in _SIDES), end="")
    print(f"{'to plain':>10}{'of CPU':>8}{'to bare':>9}{'of CPU':>8}")
    for name, row in results["nothing_to_do"].items():
        print(f"{name:16}{row['stages']:8}" + "".join(f"{row[side]:10.2f}" for side in _SIDES), end="")
        print(f"{row['ratio']:10.2f}{row['ratio_cpu']:8.2f}{row['ratio_bare']:9.2f}{row['ratio_bare_cpu']:8.2f}")
    if stages:
        results["stages"] = each_stage(rounds)
        print(f"{'stage':24}{'whole s':>9}{'imports s':>11}{'over s':>8}  loads")
        for name, row in results["stages"].items():
            loads = ", ".join(row["loads"]) or "none of " + ", ".join(_HEAVY)
            print(f"{name:24}{row['whole']:9.2f}{row['imports']:11.2f}{row['over']:8.2f}  {loads}")
    if out is not None:
        write_json(out, results)


def nothing_to_do(rounds: int, tiny: bool = False) -> dict[str, dict[str, Any]]:
    """Seconds of `dvc repro` with nothing to do, here and on the other two; of everything and of present@demo.

    `tiny`: of the pipeline of tiny runs in place of the project's own.
    """
    with tempfile.TemporaryDirectory() as name:
        folders = {side: Path(name) / side for side in _SIDES}
        _copy(folders["genlib"])
        params = folders["genlib"] / "params.yaml"
        if tiny:
            shrink(params)
        everything, needed = _stand_ins(folders["genlib"])
        last = _chains(folders["bare"], everything, needed)
        _chains(folders["plain"], everything, needed, params)
        results = {}
        for target, other, count in ((None, None, everything), (_TARGET, last, needed)):
            targets = {"bare": other, "plain": other, "genlib": target}
            took: dict[str, list[tuple[float, float]]] = {side: [] for side in _SIDES}
            for _ in range(rounds):
                for side in _SIDES:
                    took[side].append(_repro(folders[side], targets[side]))
            row: dict[str, Any] = {"stages": count}
            row |= {side: statistics.median(seconds for seconds, _ in took[side]) for side in _SIDES}
            for key, side in (("ratio", "plain"), ("ratio_bare", "bare")):
                pairs = list(zip(took["genlib"], took[side], strict=True))
                row[key] = statistics.median(ours[0] / theirs[0] for ours, theirs in pairs)
                row[f"{key}_cpu"] = statistics.median(ours[1] / theirs[1] for ours, theirs in pairs)
            results[target or "everything"] = row
    return results


def each_stage(rounds: int, most: int | None = None) -> dict[str, dict[str, Any]]:
    """Seconds of each stage of a pipeline of tiny runs, those of its imports, and which heavy modules it loads.

    `most`: only the first so many stages.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        _copy(folder)
        shrink(folder / "params.yaml")
        loaded = Path(name) / "loaded.json"
        results = {}
        for stage, command in list(_commands(folder).items())[:most]:
            _, *words = shlex.split(command)
            _call(folder, sys.executable, "-c", _RECORDER, str(loaded), *words[1:])
            seconds: dict[str, list[float]] = {"whole": [], "imports": []}
            for _ in range(rounds):
                seconds["whole"].append(_call(folder, sys.executable, *words))
                seconds["imports"].append(_call(folder, sys.executable, "-c", _IMPORTER, str(loaded)))
            row: dict[str, Any] = {side: statistics.median(took) for side, took in seconds.items()}
            row["over"] = statistics.median(a - b for a, b in zip(seconds["whole"], seconds["imports"], strict=True))
            modules = json.loads(loaded.read_text())
            row["loads"] = [module for module in _HEAVY if module in modules]
            results[stage] = row
    return results


def shrink(path: Path) -> None:
    """A params.yaml of drawn digits, an autoencoder and a GAN, with next to nothing to do."""
    yaml = YAML()
    raw: Any = yaml.load(path)
    kept = {"data": ("digits",), "features": ("digits",), "lanes": ("demo",), "runs": ("digits-ae", "digits-gan")}
    for section, names in kept.items():
        for name in [name for name in raw[section] if name not in names]:
            del raw[section][name]
    raw["data"]["digits"] |= {"validation_images": 40}
    raw["data"]["digits"]["source"] |= {"train_images": 200, "test_images": 110}
    raw["features"]["digits"] |= {"epochs": 1, "batch_size": 50, "width": 2}
    raw["progress"] |= {"frames": 2, "images": 9, "codes": 10}
    raw["sample"] |= {"images": 110, "grid": 16}
    raw["evaluate"] |= {"sets": 1, "pairs": 10, "nearest_images": 100, "importance_of": {}}
    for own in raw["runs"].values():
        own |= {"width": 2, "epochs": 1, "batch_size": 50}
    raw["runs"]["digits-gan"]["discriminator_width"] = 2
    yaml.dump(raw, path)


def _stand_ins(folder: Path) -> tuple[int, int]:
    """Make all stages of a copy up to date; how many there are, and how many present@demo needs, itself included."""
    from dvc.repo import Repo
    from networkx import descendants  # type: ignore[import-untyped,unused-ignore]

    with Repo(str(folder)) as repo:
        outputs = [Path(output.fs_path) for stage in repo.index.stages for output in stage.outs]
    for output in outputs:
        path = output if output.suffix else output / "stand-in"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(path.relative_to(folder.resolve())))
    _call(folder, sys.executable, "-m", "dvc", "commit", "--force", "--quiet")
    with Repo(str(folder)) as repo:
        graph = repo.index.graph
        target = next(stage for stage in graph if stage.name == _TARGET)
        return len(graph), 1 + len(descendants(graph, target))


def _chains(folder: Path, everything: int, needed: int, params: Path | None = None) -> str:
    """A pipeline of as many stages, in two chains; the last stage of the one of `needed`.

    With `params`, a params.yaml, each stage reads one parameter of it.
    """
    folder.mkdir()
    reads: dict[str, Any] = {}
    if params is not None:
        shutil.copy(params, folder)
        reads = {"params": [_PARAMETER]}
    stages, before = {}, "input"
    (folder / before).write_text("input")
    for number in range(everything):
        before = "input" if number == needed else before
        output = f"output-{number}"
        stages[f"stage-{number}"] = {"cmd": "true", **reads, "deps": [before], "outs": [output]}
        (folder / output).write_text(output)
        before = output
    YAML().dump({"stages": stages}, folder / "dvc.yaml")
    _initialize(folder)
    _call(folder, sys.executable, "-m", "dvc", "commit", "--force", "--quiet")
    return f"stage-{needed - 1}"


def _copy(folder: Path) -> None:
    folder.mkdir(parents=True)
    for part in _PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    _initialize(folder)
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")


def _initialize(folder: Path) -> None:
    _call(folder, "git", "init", "--quiet")
    _call(folder, sys.executable, "-m", "dvc", "init", "--quiet")


def _commands(folder: Path) -> dict[str, str]:
    """The command of each stage, in an order in which they can run."""
    from dvc.repo import Repo
    from networkx import topological_sort  # type: ignore[import-untyped,unused-ignore]

    with Repo(str(folder)) as repo:
        return {stage.name: stage.cmd for stage in reversed(list(topological_sort(repo.index.graph)))}


def _repro(folder: Path, target: str | None) -> tuple[float, float]:
    """Seconds that it took, and seconds of CPU."""
    before = _cpu_seconds()
    seconds = _call(folder, sys.executable, "-m", "dvc", "repro", *([target] if target else []))
    return seconds, _cpu_seconds() - before


def _cpu_seconds() -> float:
    """Those of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _call(folder: Path, *words: str) -> float:
    """Run a command in a folder; seconds that it took. GenlibError if it fails."""
    began = time.perf_counter()
    done = subprocess.run(
        words,
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["it says nothing"])[-1]
        raise GenlibError(f"{' '.join(words[-4:])}: ended with {done.returncode}: {last}; mend that and try again")
    return time.perf_counter() - began


def _environment(folder: Path) -> Mapping[str, str]:
    """That of a user without settings of their own: nothing tracked, on the CPU, no DVC folders but the copy's."""
    settings = str(folder.parent / "settings")
    return os.environ | {
        "GENLIB_TRACKING": "off",
        "GENLIB_DEVICE": "cpu",
        "DVC_NO_ANALYTICS": "true",
        "DVC_GLOBAL_CONFIG_DIR": settings,
        "DVC_SYSTEM_CONFIG_DIR": settings,
        "DVC_SITE_CACHE_DIR": settings,
    }


if __name__ == "__main__":
    run(main)
