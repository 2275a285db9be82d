"""What this machine and this folder have, and what they lack, for the pipeline to run. Nothing is changed.

Each check gives findings: what is fine, what is worth knowing, and what makes the pipeline unusable.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import requests
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from genlib.data.fetch import Address, SourceError, Transfer
from genlib.data.meter import size
from genlib.data.mirror import LIST_NAME, VARIABLE, Mirror, find_mirror, open_mirror, public
from genlib.data.sources import CATALOGUE
from genlib.errors import GenlibError
from genlib.params import Params
from genlib.settings import DatasetSettings

_LITTLE_BYTES = 5_000_000_000
"""Free disk below which a note is due: the demo's results, datasets and caches take about 2 GB, more of real data."""

_NO_BYTES = 200_000_000
_IMPATIENT = Transfer(retries=0, connect_seconds=5, read_seconds=10)
_SHOWN = 5
_BUSY = "is busy, it is being blocked by:"
_LOCKED = "Unable to acquire lock"
_WAIT = "another dvc is at work: wait for it or stop it"
_PIPELINE = re.compile(r"'(?:\./)?(dvc\.yaml|dvc\.lock)'")
_FILLED_IN = "failed to parse"  # of dvc.yaml, what the values of params.yaml are put into


class Level(StrEnum):
    """How bad a finding is; only a problem keeps the pipeline from running."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy`: what to do about it, for what is no mere information."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


class State(StrEnum):
    """What a run's files are worth."""

    CURRENT = "up to date"
    UNMEASURED = "trained, to be sampled or measured again"
    STALE = "trained with other settings, code or data"
    UNKNOWN = "trained, not known whether it is up to date"
    MISSING = "not trained here"


@dataclass(frozen=True)
class RunState:
    """A run of a lane; `why`: what changed, by DVC's account, for those that are not up to date."""

    lane: str
    run: str
    state: State
    why: tuple[str, ...] = ()


# The environment


def interpreter(root: Path) -> Finding:
    """This Python against `requires-python` of pyproject.toml."""
    supported = str(_project(root).get("requires-python", ""))
    text = f"{platform.python_version()} at {sys.executable}, {platform.system()} {platform.machine()}"
    if SpecifierSet(supported).contains(platform.python_version(), prereleases=True):
        return Finding(Level.OK, "python", text)
    return Finding(
        Level.PROBLEM,
        "python",
        f"{text}; the project needs {supported}",
        "install one of these: make PYTHON=python3.12",
    )


def packages(root: Path) -> Iterator[Finding]:
    """Installed packages against the ranges of pyproject.toml, and against the versions of requirements.lock."""
    wanted = [Requirement(line) for line in _project(root).get("dependencies", ())]
    faults = [fault for requirement in wanted if (fault := _fault(requirement)) is not None]
    if faults:
        text = f"{len(faults)} of {len(wanted)} that pyproject.toml names: {_some(faults)}"
        yield Finding(Level.PROBLEM, "packages", text, "run make setup, then source .venv/bin/activate")
        return
    locked = _locked(root / "requirements.lock")
    differing = [fault for requirement in locked if (fault := _fault(requirement)) is not None]
    text = f"{len(wanted)} of {len(wanted)} that pyproject.toml names"
    if not differing:
        yield Finding(Level.OK, "packages", f"{text}; {len(locked)} of {len(locked)} as in requirements.lock")
        return
    text += f"; {len(differing)} of {len(locked)} not as in requirements.lock: {_some(differing)}"
    yield Finding(Level.NOTE, "packages", text, "make setup installs the locked ones; results may differ with others")


def computing(threads: int) -> Finding:
    """torch, the device that would be used, and the threads that a stage takes."""
    import torch

    from genlib import device

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        on = device.choose(threads)
    except GenlibError as error:
        return Finding(Level.PROBLEM, "device", f"torch {torch.__version__}: {error}")
    name = f" ({torch.cuda.get_device_name(on)})" if on.type == "cuda" else ""
    text = (
        f"torch {torch.__version__} on {on}{name}; {cpus} CPUs, {threads} thread{'' if threads == 1 else 's'} a stage"
    )
    return Finding(Level.OK, "device", text)


def disk(root: Path) -> Finding:
    """Free space, and whether the folder can be written to."""
    free = shutil.disk_usage(root).free
    text = f"{size(free)} free in {root}"
    if not os.access(root, os.W_OK):
        return Finding(Level.PROBLEM, "disk", f"{root} cannot be written to", "change its owner or its permissions")
    if free < _NO_BYTES:
        return Finding(Level.PROBLEM, "disk", text, "make room")
    if free < _LITTLE_BYTES:
        return Finding(Level.NOTE, "disk", text, "the demo needs about 2 GB; dvc gc --workspace removes old results")
    return Finding(Level.OK, "disk", text)


# The repository


def repository(root: Path) -> Iterator[Finding]:
    """git and DVC: whether they are there, and in what state the folder is."""
    commit = _git(root, "rev-parse", "--short", "HEAD")
    if shutil.which("git") is None:
        yield Finding(Level.PROBLEM, "git", "not found", "install it: DVC keeps its records in git")
    elif commit is None:
        yield Finding(Level.PROBLEM, "git", f"no commit in {root}", "clone the project and work in the clone")
    else:
        changed = (_git(root, "status", "--porcelain", "--untracked-files=no") or "").splitlines()
        files = f"{len(changed)} changed file{'' if len(changed) == 1 else 's'}" if changed else "nothing changed"
        yield Finding(Level.OK, "git", f"commit {commit}, {files}")
        if not (_git(root, "config", "user.name") and _git(root, "config", "user.email")):
            remedy = "git config --global user.name NAME, and the same with user.email"
            yield Finding(Level.NOTE, "git", "user.name or user.email is not set; dvc exp run needs both", remedy)
    if shutil.which("dvc") is None:
        yield Finding(Level.PROBLEM, "dvc", "not on the PATH", "source .venv/bin/activate, after make setup")
    elif not (root / ".dvc").is_dir():
        yield Finding(
            Level.PROBLEM, "dvc", f"no .dvc in {root}", "clone the project and work in the clone, or dvc init"
        )
    else:
        yield _pipeline(root)


def _pipeline(root: Path) -> Finding:
    """Whether DVC can read dvc.yaml and dvc.lock."""
    done = _dvc(root, "stage", "list", "--name-only")
    if done.returncode == 0:
        return Finding(Level.OK, "dvc", f"{version('dvc')}, {root / '.dvc'}")
    said, remedy = complaint(done.stderr)
    if named := _PIPELINE.search(said):
        remedy = f"git checkout {named[1]}"
    if said.startswith(_FILLED_IN):
        remedy = f"mend params.yaml, or {remedy}"
    return Finding(Level.PROBLEM, "dvc", said, remedy)


# The datasets


def mirror(network: bool) -> tuple[Mirror | None, Finding]:
    """The mirror that GENLIB_MIRROR names, opened; one behind a URL only if the network may be used."""
    try:
        base = find_mirror(os.environ)
    except GenlibError as error:
        return None, Finding(Level.PROBLEM, "mirror", str(error))
    if base is None:
        return None, Finding(Level.OK, "mirror", f"{VARIABLE} is not set")
    shown = public(base) if isinstance(base, str) else base
    if isinstance(base, str) and not network:
        return None, Finding(Level.NOTE, "mirror", f"{shown}: not asked", "python -m genlib doctor --network asks it")
    with tempfile.TemporaryDirectory() as work:
        try:
            opened = open_mirror(base, Path(work), _IMPATIENT)
        except GenlibError as error:
            return None, Finding(Level.PROBLEM, "mirror", str(error))
    if opened.fault is not None:
        return opened, Finding(
            Level.NOTE, "mirror", f"{shown}: {opened.fault}", f"write its {LIST_NAME} with sha256sum"
        )
    return opened, Finding(Level.OK, "mirror", f"{shown}, {len(opened.sums)} files listed")


def dataset(root: Path, name: str, settings: DatasetSettings, found: Mirror | None, network: bool) -> Finding:
    """Whether a dataset is here, or where it would come from."""
    kind, subject = settings.source.kind, f"data {name}"
    if (root / "data" / "processed" / name / "card.json").is_file():
        return Finding(Level.OK, subject, "here, prepared")
    if (root / "data" / "raw" / name / "origin.json").is_file():
        return Finding(Level.OK, subject, "here, its archives")
    if kind not in CATALOGUE:
        return Finding(Level.OK, subject, "not here; made on this machine when it is needed, without a network")
    lacking = [file.name for file in CATALOGUE[kind] if not _in_mirror(found, f"{kind}/{file.name}")]
    if not lacking:
        return Finding(Level.OK, subject, f"not here; all {len(CATALOGUE[kind])} files are in the mirror")
    where = "not here, and there is no mirror" if found is None else f"not here; the mirror lacks {_some(lacking)}"
    if not network:
        return Finding(
            Level.NOTE, subject, f"{where}; official sources not asked", "python -m genlib doctor --network asks them"
        )
    faults = [fault for file in lacking if (fault := _unreachable(kind, file)) is not None]
    if faults:
        remedy = "try later, or fill a mirror: README.md, Real data"
        return Finding(Level.NOTE, subject, f"{where}; the official sources do not answer: {_some(faults)}", remedy)
    return Finding(Level.OK, subject, f"{where}; the official sources answer (Google Drive may still refuse)")


# The runs


def runs(root: Path, params: Params) -> tuple[list[RunState], str | None]:
    """The state of every run, in the order of params.yaml; and why DVC does not say it, if so."""
    changes, fault = _dvc_status(root)
    return [_run_state(root, name, params, changes) for name in params.runs], fault


def _run_state(root: Path, run: str, params: Params, changes: Mapping[str, Any] | None) -> RunState:
    """`changes`: what `dvc status --json` says; None if it does not."""
    settings = params.runs[run]
    if not (root / "runs" / settings.lane / run / "model.safetensors").is_file():
        return RunState(settings.lane, run, State.MISSING)
    if changes is None:
        return RunState(settings.lane, run, State.UNKNOWN)
    above = (f"download@{settings.dataset}", f"preprocess@{settings.dataset}", f"features@{settings.features}")
    stale = [*_reasons(changes, *above, without="changed outs"), *_reasons(changes, f"train@{run}")]
    if stale:
        return RunState(settings.lane, run, State.STALE, tuple(dict.fromkeys(stale)))
    due = tuple(dict.fromkeys(_reasons(changes, f"sample@{run}", f"evaluate@{run}")))
    return RunState(settings.lane, run, State.UNMEASURED if due else State.CURRENT, due)


def _reasons(changes: Mapping[str, Any], *stages: str, without: str = "") -> Iterator[str]:
    """Names of the settings and paths that changed, for these stages of what `dvc status --json` says.

    A dependency that is not here has not changed: models are pulled from a remote without the data they were made of.
    `without`: what is left out, besides.
    """
    for entry in (entry for stage in stages for entry in changes.get(stage, ())):
        if not isinstance(entry, Mapping):
            yield str(entry)
            continue
        for kind, things in entry.items():
            for path, change in things.items() if kind != without else ():
                if isinstance(change, Mapping):
                    yield from change
                elif not (kind == "changed deps" and change == "deleted"):
                    yield path


def _dvc_status(root: Path) -> tuple[dict[str, Any] | None, str | None]:
    done = _dvc(root, "status", "--json")
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout or "{}")
        return found, None
    return None, "; ".join(complaint(done.stderr))


def complaint(stderr: str) -> tuple[str, str]:
    """What dvc complains of, in one line, and the remedy. Of another dvc at work it names the process."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["it says nothing"]
    # Warnings may come before.
    lines = lines[next((place for place, line in enumerate(lines) if line.startswith("ERROR: ")), 0) :]
    said = lines[0].removeprefix("ERROR: ")
    if said.endswith(_BUSY):
        return " ".join([said, *(line for line in lines if line.startswith("(PID "))]), _WAIT
    return (_LOCKED, _WAIT) if said.startswith(_LOCKED) else (said, "mend that and run again")


def _dvc(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, capture_output=True, text=True, check=False)


# Helpers


def _project(root: Path) -> dict[str, Any]:
    path = root / "pyproject.toml"
    try:
        project: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))["project"]
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
        raise GenlibError(f"{path}: not a project's pyproject.toml ({error}); git checkout pyproject.toml") from error
    return project


def _locked(path: Path) -> list[Requirement]:
    """What a lock pins for this Python and this system."""
    if not path.is_file():
        return []
    lines = [line.rstrip(" \\") for line in path.read_text("utf-8").splitlines() if line[:1].isalnum()]
    found = [Requirement(line) for line in lines]
    return [requirement for requirement in found if requirement.marker is None or requirement.marker.evaluate()]


def _fault(requirement: Requirement) -> str | None:
    """How an installed package is not what is required; None if it is."""
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(installed, prereleases=True):
        return None
    return f"{requirement.name} {installed}, not {requirement.specifier}"


def _in_mirror(found: Mirror | None, key: str) -> bool:
    """Whether a mirror lists a file and, where it is a folder, has it."""
    if found is None or key not in found.sums:
        return False
    return isinstance(found.base, str) or (found.base / key).is_file()


def _unreachable(kind: str, name: str) -> str | None:
    """Why no official address of a file answers; None if one does."""
    file = next(file for file in CATALOGUE[kind] if file.name == name)
    faults = []
    for address in file.addresses(_IMPATIENT):
        try:
            _ask(address)
            return None
        except SourceError as error:
            faults.append(f"{address.host} ({error})")
    return f"{name}: {', '.join(faults)}"


def _ask(address: Address) -> None:
    """Ask for the first byte of a file; SourceError if the answer is none."""
    patience = (_IMPATIENT.connect_seconds, _IMPATIENT.read_seconds)
    try:
        with requests.get(address.url, headers={"Range": "bytes=0-0"}, stream=True, timeout=patience) as response:
            if response.status_code >= 400:
                raise SourceError(f"HTTP {response.status_code}")
    except requests.RequestException as error:
        raise SourceError(f"no connection, {type(error).__name__}") from error


def _git(root: Path, *words: str) -> str | None:
    """What git answers; None if it is not there or refuses."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
