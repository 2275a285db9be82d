"""A small pipeline, killed again and again and started again: its bytes must be those of an undisturbed one.

    python tests/torture.py [--kills 30] [--seed 0] [--target "train@digits-ae train@digits-vae train@digits-gan"]

DVC and the stages are as they are. Half of the blows fall at a random moment from outside, on the stage, on dvc or on
both; the other half inside a stage, at what it does to files (see tests/killer): before a file is opened, between its
writing and its renaming, between renaming and fsync, in the middle of a batch; some of them as a power cut, which loses
what was not fsynced. The two pipelines also differ in all that no result may depend on: see `VICTIM`.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
RUNS = ("digits-ae", "digits-vae", "digits-gan")
_DIFFER = ("provenance.json", "presentation/demo")
"""Outputs that hold date and duration, and may differ between equal runs."""
CALM = {"GENLIB_TRACKING": "off", "OMP_NUM_THREADS": "1", "GENLIB_WORKERS": "1", "PYTHONHASHSEED": "1", "TZ": "UTC"}
VICTIM = {
    "GENLIB_TRACKING": "on",
    "OMP_NUM_THREADS": "3",
    "OPENBLAS_NUM_THREADS": "3",
    "GENLIB_WORKERS": "3",
    "PYTHONHASHSEED": "2",
    "TZ": "Asia/Tokyo",
    "LC_ALL": "C",
}
"""What is around the two pipelines differs, too: threads, worker processes, tracking, hashes, time zone, locale."""


def shrink(path: Path, epochs: int) -> None:
    """params.yaml with digits only, three runs, next to nothing to do; comments stay."""
    yaml = YAML()
    raw: Any = yaml.load(path)
    for section in ("data", "features"):
        for name in [name for name in raw[section] if name != "digits"]:
            del raw[section][name]
    raw["data"]["digits"]["validation_images"] = 40
    raw["data"]["digits"]["source"] |= {"train_images": 1000, "test_images": 110}
    raw["features"]["digits"] |= {"epochs": 1, "batch_size": 50, "width": 2}
    raw["progress"] |= {"frames": 5, "images": 9, "codes": 30, "judged": 40}
    raw["sample"] |= {"images": 110, "grid": 16, "gradient_draws": 3}
    raw["evaluate"] |= {"sets": 2, "pairs": 10, "nearest_images": 100, "importance_of": {}}
    raw["evaluate"]["importance"] |= {"samples": 3, "images": 20}
    for name in [name for name in raw["runs"] if name not in RUNS]:
        del raw["runs"][name]
    for name in RUNS:
        raw["runs"][name] |= {"width": 4, "epochs": epochs, "batch_size": 20}
    raw["runs"]["digits-gan"]["discriminator_width"] = 4
    for lane in [lane for lane in raw["lanes"] if lane != "demo"]:
        del raw["lanes"][lane]
    yaml.dump(raw, path)


@dataclass
class Project:
    """A repository with the project's code and small settings."""

    folder: Path
    settings: Path
    surroundings: dict[str, str]

    @classmethod
    def make(cls, folder: Path, epochs: int, surroundings: dict[str, str]) -> "Project":
        """Set one up in an empty folder; `surroundings` are environment variables that no result may depend on."""
        project = cls(folder / "project", folder / "settings", surroundings)
        project.settings.mkdir(parents=True)
        for name in ("genlib", "stages"):
            shutil.copytree(ROOT / name, project.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("params.yaml", "dvc.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, project.folder / name)
        (project.folder / "comparisons").mkdir()  # of no lane
        shrink(project.folder / "params.yaml", epochs)
        for words in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
            subprocess.run(words, cwd=project.folder, env=project.environment(), check=True)
        shutil.copy(ROOT / ".dvc" / "config", project.folder / ".dvc" / "config")
        return project

    def environment(self, plan: dict[str, Any] | None = None) -> dict[str, str]:
        """That of a user without settings of his own; with a plan, that of a victim."""
        kept = {key: text for key, text in os.environ.items() if not key.startswith(("DVC_", "GIT_", "MLFLOW_"))}
        kept |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GENLIB_DEVICE": "cpu",
            "DVC_NO_ANALYTICS": "true",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
        } | {f"DVC_{kind}_DIR": str(self.settings) for kind in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE")}
        kept |= self.surroundings
        if plan is not None:
            kept |= {"KILLER": json.dumps(plan), "PYTHONPATH": str(ROOT / "tests" / "killer")}
        return kept

    def start(self, target: str, plan: dict[str, Any] | None = None) -> "subprocess.Popen[str]":
        """`dvc repro` of the targets in a process group of its own, saying what it does into repro.log."""
        with (self.folder / "repro.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dvc", "repro", *target.split()],
                cwd=self.folder,
                env=self.environment(plan),
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def finish(self, target: str) -> None:
        """`dvc repro` of the targets; RuntimeError with what it said if it fails."""
        if self.start(target).wait() != 0:
            raise RuntimeError((self.folder / "repro.log").read_text()[-4000:])

    def hashes(self) -> dict[str, str]:
        """The checksum of every output in dvc.lock, those that may differ left out."""
        stages = YAML(typ="safe").load(self.folder / "dvc.lock")["stages"].values()
        outputs = [output for stage in stages for output in stage["outs"]]
        return {output["path"]: output["md5"] for output in outputs if not output["path"].endswith(_DIFFER)}

    def stage_processes(self) -> list[int]:
        """Process ids of the stages at work in this folder, also of those whose dvc is gone (Linux)."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                here = (process / "cwd").readlink() == self.folder.resolve()
            except OSError:  # it has ended meanwhile, or is another user's
                continue
            if here and any(word.startswith(b"stages.") for word in words) and b"-m" in words[:2]:
                found.append(int(process.name))
        return found


@dataclass
class Report:
    """Where the blows fell, and which outputs are not those of the undisturbed pipeline."""

    blows: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)


def torture(folder: Path, kills: int, seed: int, target: str, epochs: int) -> Report:
    """Run the pipeline undisturbed, then with `kills` blows, and compare."""
    calm, victim = Project.make(folder / "calm", epochs, CALM), Project.make(folder / "victim", epochs, VICTIM)
    calm.finish(target)
    draw, report = random.Random(seed), Report()
    blows = folder / "blows.log"
    while len(report.blows) < kills:
        inside = draw.random() < 0.6
        told = _strike_inside(victim, target, draw, blows) if inside else _strike_outside(victim, target, draw)
        if told is None:  # it ended before the blow: begin again with what is hardest to do twice
            _forget_training(victim, draw)
            continue
        report.blows.append(told)
        print(f"{len(report.blows):3}: {told}", flush=True)
    victim.finish(target)
    expected, found = calm.hashes(), victim.hashes()
    report.differing = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
    left = [str(path) for path in victim.folder.rglob("*.partial")]
    report.differing += left
    return report


def _strike_inside(victim: Project, target: str, draw: random.Random, log: Path) -> str | None:
    others = [] if target.startswith("train@") else ["stages.sample", "stages.evaluate", "stages.preprocess"]
    stage = draw.choice(["stages.train"] * 6 + others)
    plan = {
        "stage": stage,
        "events": draw.randint(1, 60),
        "delay": draw.choice([0, 0, 0, round(draw.uniform(0, 1), 3)]),
        "who": draw.choice(["stage", "group"]),
        "power": draw.random() < 0.4,
        "log": str(log),
    }
    before = log.read_text() if log.exists() else ""
    victim.start(target, plan).wait()
    now = log.read_text() if log.exists() else ""
    whom = stage if plan["who"] == "stage" else f"{stage} and dvc"
    return f"{whom}, {now[len(before) :].strip()}" if len(now) > len(before) else None


def _strike_outside(victim: Project, target: str, draw: random.Random) -> str | None:
    whom, after = draw.choice(["the stage", "dvc alone", "dvc and its stage"]), draw.uniform(2, 12)
    process = victim.start(target)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        pass
    else:
        return None
    stages = victim.stage_processes()
    if whom == "dvc and its stage":
        os.killpg(process.pid, signal.SIGKILL)
    elif whom == "dvc alone" or not stages:
        process.kill()
        time.sleep(draw.uniform(0, 2))  # what it left behind goes on for a while
    for pid in [*stages, *victim.stage_processes()]:
        _kill(pid)
    process.wait()
    return f"{whom}, {after:.1f} s after the start{'' if stages else ', between stages'}"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has ended by itself
        return


def _forget_training(victim: Project, draw: random.Random) -> None:
    """Remove the outputs of a run, so that it is made again; the run cache too, which would bring them back."""
    shutil.rmtree(victim.folder / "runs" / "demo" / draw.choice(RUNS), ignore_errors=True)
    shutil.rmtree(victim.folder / ".dvc" / "cache", ignore_errors=True)


def main(
    kills: Annotated[int, typer.Option(help="How many blows must fall.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    target: Annotated[str, typer.Option(help="Stages that are reproduced.")] = "present@demo",
    epochs: Annotated[int, typer.Option(help="Of each training.")] = 4,
) -> None:
    """Kill a small pipeline many times and compare its bytes with those of an undisturbed one."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        report = torture(Path(folder), kills, seed, target, epochs)
    print(f"{len(report.blows)} blows in {time.perf_counter() - began:.0f} s; ", end="")
    if report.differing:
        sys.exit(f"not as undisturbed: {', '.join(report.differing)}")
    print("all bytes are those of the undisturbed pipeline")


if __name__ == "__main__":
    typer.run(main)
