"""Results of one run in the workspace and in DVC's experiments, each with what it was made with."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from genlib import params
from genlib.comparison import Result, flat, result_of
from genlib.errors import GenlibError

T = TypeVar("T")
Load = Callable[[str, str], bytes]
"""A file of an output, from its path and its md5."""


Reader = Callable[[str, str, str, Load], T]
"""Makes something of one revision: its name, the texts of its params.yaml and dvc.lock, and access to its files."""


def in_workspace(run: str) -> Result:
    """The result of a run in the workspace, with the params it was made with.

    GenlibError if params.yaml or a file was changed since, so that they do not belong together.
    """
    return from_workspace(lambda *revision: _result(run, *revision))


def in_metrics(run: str) -> Result:
    """The result of a run whose outputs are not here, as in a fresh clone: from its metrics file, as dvc.lock names it.

    It has no card. GenlibError if params.yaml or a file was changed since, so that they do not belong together.
    """
    return from_workspace(lambda *revision: _committed(run, *revision))


def in_experiments(run: str, rev: str, left_out: Sequence[str] = ()) -> tuple[list[Result], list[str]]:
    """The results of a run in DVC's experiments on the commit `rev`; and a note on each that has none to give.

    Only what git and DVC's cache hold is read: nothing is fetched from a remote.
    """
    return from_experiments(lambda *revision: _result(run, *revision), rev, left_out)


def from_workspace(read: Reader[T]) -> T:
    """What `read` makes of the workspace."""
    lock, place = Path("dvc.lock"), Path("params.yaml")
    for path in (lock, place):
        if not path.is_file():
            raise GenlibError(f"{path}: no such file; run this in the project's folder, after dvc repro")
    return read(_WORKSPACE, _text(place), _text(lock), _from_workspace)


def from_experiments(read: Reader[T], rev: str, left_out: Sequence[str] = ()) -> tuple[list[T], list[str]]:
    """What `read` makes of each of DVC's experiments on the commit `rev`; and a note on each that it makes nothing of.

    Outputs that are folders are read, too: `.dir` files of DVC's cache, JSON lists of `relpath` and `md5`.
    """
    from dvc.exceptions import DvcException  # DVC takes seconds to import
    from dvc.repo import Repo

    results, notes = [], []
    try:
        with Repo() as repo:
            saved = {name: sha for found in repo.experiments.ls(rev=rev).values() for name, sha in found}
            for name in left_out:
                if name not in saved:
                    raise GenlibError(
                        f"--without {name}: {rev} has no such experiment; there are {', '.join(saved) or 'none'}"
                    )
            folder = Path(repo.root_dir).relative_to(repo.scm.root_dir)
            for name in sorted(saved.keys() - set(left_out)):
                files = repo.scm.get_fs(saved[name])
                try:
                    yaml, lock = (files.open(str(folder / file), encoding="utf-8").read() for file in _IN_GIT)
                    results.append(read(name, yaml, lock, lambda path, md5: _from_cache(repo, path, md5)))
                except FileNotFoundError as error:
                    notes.append(f"{name}: left out: it has no {Path(str(error.filename or error)).name}")
                except UnicodeDecodeError as error:
                    notes.append(f"{name}: left out: its params.yaml or dvc.lock is not UTF-8 ({error})")
                except GenlibError as error:
                    notes.append(f"{name}: left out: {error}")
            commit = repo.scm.resolve_rev(rev)
            notes.extend(_unfinished(repo, commit))
    except DvcException as error:
        raise GenlibError(f"experiments on {rev}: DVC says: {error}; see dvc exp list {rev}") from error
    return results, notes


_IN_GIT = ("params.yaml", "dvc.lock")
_WORKSPACE = "workspace"


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise GenlibError(f"{path}: not UTF-8 ({error}); git checkout {path}") from error


def _unfinished(repo: Any, commit: str) -> Iterator[str]:
    queue = repo.experiments.celery_queue
    for state, entries in (
        ("it failed", (done.entry for done in queue.iter_failed())),
        ("it is still running", queue.iter_active()),
        ("it waits in the queue", queue.iter_queued()),
    ):
        for entry in entries:
            if entry.baseline_rev == commit:
                yield f"{entry.name or entry.stash_rev[:7]}: left out: {state} (dvc queue status)"


def _from_workspace(path: str, md5: str) -> bytes:
    file = Path(path)
    if not file.is_file():
        raise GenlibError(f"{path}: no such file; run dvc repro")
    data = file.read_bytes()
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise GenlibError(f"{path}: not the file that dvc.lock names ({md5}); run dvc repro")
    return data


def _from_cache(repo: Any, path: str, md5: str) -> bytes:
    cached = Path(repo.cache.local.oid_to_path(md5))
    if not cached.is_file():
        raise GenlibError(f"its {Path(path).name} ({md5}) is not in DVC's cache; dvc exp apply it and run dvc repro")
    return cached.read_bytes()


@dataclass(frozen=True)
class Made:
    """What a stage of one run made, as a revision's dvc.lock has it.

    `raw`: params.yaml; `used`: what the run's numbers depend on, flat, without the seed; `places`: where each of its
    own settings is written; `code`: the md5 of each source file behind it; `outs`: the md5 of each output by its path.
    """

    raw: Mapping[str, Any]
    used: Mapping[str, Any]
    places: Mapping[str, str]
    code: Mapping[str, str]
    outs: Mapping[str, str]


def made(name: str, step: str, run: str, yaml: str, lock: str) -> Made:
    """What the stage `step` of a run made, from the texts of the revision's params.yaml and dvc.lock.

    GenlibError if one of them is broken, or they do not belong together.
    """
    raw, stages = _mapping(name, "params.yaml", yaml), _stages(name, lock)
    used, places = used_params(params.parse(raw), raw, run)
    stage = f"{step}@{run}"
    code = _code(stages, stage, raw)
    return Made(raw, used, places, code, {out["path"]: out["md5"] for out in stages[stage].get("outs", ())})


def _result(run: str, name: str, yaml: str, lock: str, load: Load) -> Result:
    of = made(name, "evaluate", run, yaml, lock)
    path = f"runs/{of.used['lane']}/{run}/evaluation.json"
    md5 = of.outs.get(path)
    if md5 is None:
        raise GenlibError(f"{path} is no output of evaluate@{run} in dvc.lock; run dvc repro evaluate@{run}")
    try:
        everything = json.loads(load(path, md5))
    except ValueError as error:
        raise GenlibError(f"{name}: {path}: not valid JSON ({error}); run dvc repro") from error
    return result_of(everything, path, name, run, of.raw["seed"], {**of.used, **of.code}, of.places)


def _committed(run: str, name: str, yaml: str, lock: str, load: Load) -> Result:
    of = made(name, "evaluate", run, yaml, lock)
    path = f"metrics/{of.used['lane']}/{run}.json"
    try:
        metrics = json.loads(load(path, of.outs[path]))
    except (KeyError, ValueError) as error:
        raise GenlibError(f"{path}: not the output of evaluate@{run} in dvc.lock; run dvc repro") from error
    spreads = {key.removesuffix("_std"): {"std": value} for key, value in metrics.items() if key.endswith("_std")}
    everything = {"run": run, "metrics": metrics, "card": {"seed": of.raw["seed"]}, "spreads": spreads}
    return result_of(everything, path, name, run, None, {**of.used, **of.code}, of.places)


def _mapping(name: str, file: str, text: str) -> Mapping[str, Any]:
    """What a YAML file of a revision says. GenlibError if that is no mapping."""
    try:
        found = _parsed(text)
    except (YAMLError, ValueError, LookupError, TypeError) as error:
        raise _broken(name, file, f"not valid YAML: {error}") from error
    if not isinstance(found, Mapping):
        raise _broken(name, file, f"{_shown(found)} is no mapping")
    return found


def _stages(name: str, lock: str) -> Mapping[str, Any]:
    """Those of a revision's dvc.lock. GenlibError if it is not of the shape in which DVC writes it."""
    stages = _mapping(name, "dvc.lock", lock).get("stages")
    if not isinstance(stages, Mapping):
        raise _broken(name, "dvc.lock", f"stages: {_shown(stages)} is no mapping")
    for stage, content in stages.items():
        if not isinstance(content, Mapping):
            raise _broken(name, "dvc.lock", f"stages.{stage}: {_shown(content)} is no mapping")
        params = content.get("params", {})
        if not isinstance(params, Mapping) or not isinstance(params.get("params.yaml", {}), Mapping):
            raise _broken(name, "dvc.lock", f"stages.{stage}.params: {_shown(params)} names no values by file")
        for kind in ("deps", "outs"):
            files = content.get(kind, [])
            if not isinstance(files, list):
                raise _broken(name, "dvc.lock", f"stages.{stage}.{kind}: {_shown(files)} is no list")
            for file in files:
                told = [file.get("path"), file.get("md5")] if isinstance(file, Mapping) else []
                if not told or not all(isinstance(word, str) for word in told):
                    raise _broken(name, "dvc.lock", f"stages.{stage}.{kind}: {_shown(file)} has no path and md5")
    return stages


def _broken(name: str, file: str, fault: str) -> GenlibError:
    """Of the workspace, git has another; an experiment can only be made again."""
    if name == _WORKSPACE:
        return GenlibError(f"{file}: {fault}; git checkout {file}")
    return GenlibError(f"its {file}: {fault}; dvc exp remove {name}, then dvc exp run makes it again")


def _shown(value: object) -> str:
    return repr(value)[:80]


@lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """A dvc.lock takes a third of a second, and each run's result is looked for in all of them. Not to be changed."""
    return YAML(typ="safe").load(text)


def used_params(everything: params.Params, raw: Mapping[str, Any], run: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What a run's numbers depend on, flat, and where each of its own settings is written; without the seed."""
    settings = everything.run(run)
    own = settings.model_dump()
    places = {key: f"runs.{run}.{key}" if key in raw["runs"][run] else f"{settings.model}.{key}" for key in own}
    sections: dict[str, Any] = {
        "threads": everything.threads,
        "data": {name: everything.dataset(name).model_dump() for name in (settings.dataset, settings.features)},
        "features": {settings.features: everything.feature(settings.features).model_dump()},
        "progress": everything.progress.model_dump(),
        "sample": everything.sample.model_dump(),
        "evaluate": everything.evaluate.model_dump(),
    }
    return own | dict(flat(sections)), places


def _code(stages: Mapping[str, Any], last: str, raw: Mapping[str, Any]) -> dict[str, str]:
    """The md5 of each file that no stage makes and the stages up to `last` read, that is of the code.

    GenlibError if a stage read another file than the one before it wrote, or other params than those in `raw`: the
    numbers then belong to neither.
    """
    if last not in stages:
        raise GenlibError(f"{last} has not been run; run dvc repro {last}")
    makers = {out["path"]: (name, out["md5"]) for name, stage in stages.items() for out in stage.get("outs", ())}
    code: dict[str, str] = {}
    waiting, seen = [last], {last}
    while waiting:
        stage = waiting.pop()
        for key, value in stages[stage].get("params", {}).get("params.yaml", {}).items():
            if _at(raw, key) != value:
                raise GenlibError(f"{key} in params.yaml is not what {stage} was run with; run dvc repro {last}")
        for dep in stages[stage].get("deps", ()):
            maker, md5 = makers.get(dep["path"], (None, dep["md5"]))
            if md5 != dep["md5"]:
                raise GenlibError(f"{dep['path']} is not the one that {stage} was run with; run dvc repro {last}")
            if maker is None:
                code[dep["path"]] = md5[:8]
            elif maker not in seen:
                waiting.append(maker)
                seen.add(maker)
    return code


def _at(raw: Any, key: str) -> Any:
    for part in key.split("."):
        raw = raw.get(part) if isinstance(raw, Mapping) else None
    return raw
