"""Results side by side: runs of the workspace, or one run over seeds and settings in DVC's experiments.

Only results whose cards agree are compared: measured in the same features, against the same images, in the same way.
Whether a difference means something is judged by the spread over seeds, that is over repeated trainings; the spread
over sample sets of one model is shown, and says nothing of what another training would give.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from genlib import params
from genlib.errors import GenlibError
from genlib.files import read_json, write_bytes

NOT_COMPARED = frozenset({"seed"})
"""Keys of a card that may differ: that of a repetition does."""

EXCEEDS = "exceeds the spread"
WITHIN = "within the spread"
ONE_SEED = "one seed: spread unknown"
SAME = "the same"
NO_SPREAD = "no spread: undecided"

_SIGNIFICANT = 0.05
_ERRORS = 2.0


@dataclass(frozen=True)
class Result:
    """One evaluated model. `name`: the run, or the experiment it is from; `params`: what it was made with, no seed.

    `places`: where each of `params` is set, as a person writes it (`gan.lr`). `spreads`: standard deviation over
    sample sets, of the metrics that have one. `card`: keys of nested mappings joined by dots.
    """

    name: str
    run: str
    seed: int | None
    metrics: Mapping[str, float]
    spreads: Mapping[str, float]
    card: Mapping[str, Any]
    params: Mapping[str, Any]
    places: Mapping[str, str]


class Row(BaseModel):
    """A metric of one group of results: a run (`spread` is over its sample sets) or a setting (over seeds).

    `difference`: its mean minus that of the first group; `p`: of Welch's t-test (1947) against the first group.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    run: str
    group: str
    params: str
    seeds: str
    metric: str
    spread: Literal["seeds", "sample sets"]
    n: PositiveInt
    mean: float
    std: NonNegativeFloat | None
    difference: float | None
    p: NonNegativeFloat | None
    verdict: str


def read(path: Path, run: str) -> Result:
    """The result of a run from its evaluation.json. GenlibError if it is missing, or not of today's shape."""
    return _result(read_json(path), str(path), run, run, None, {}, {})


def refuse_different(results: Sequence[Result]) -> None:
    """Raise GenlibError if the card of any result differs from that of the first one, naming the key and both values.

    Keys that only one of two cards has are no difference: what only one kind of model has.
    """
    first, *others = results
    for other in others:
        for key, value in first.card.items():
            if key not in NOT_COMPARED and key in other.card and other.card[key] != value:
                leave = "name runs that agree" if other.name == other.run else f"leave it out: --without {other.name}"
                raise GenlibError(
                    f"{first.name} and {other.name} are not comparable: {key} is {value!r} and {other.card[key]!r}; "
                    f"evaluate both with the same {key}, or {leave}"
                )


def choose_metrics(results: Sequence[Result], wanted: Sequence[str]) -> list[str]:
    """Metrics that at least two results have (all of a single one's), in their order; or those of them wanted."""
    names = list(dict.fromkeys(name for result in results for name in result.metrics))
    shared = [name for name in names if sum(name in result.metrics for result in results) >= min(2, len(results))]
    for name in wanted:
        if name not in shared:
            raise GenlibError(f"--metric {name}: fewer than two of the results have it; choose of {', '.join(shared)}")
    return [name for name in shared if name in wanted] if wanted else shared


def side_by_side(results: Sequence[Result], wanted: Sequence[str] = ()) -> list[Row]:
    """A row for each metric and run; differences where there are two runs. Refuses cards that differ."""
    refuse_different(results)
    rows = []
    for metric in choose_metrics(results, wanted):
        for result in results:
            if metric in result.metrics:
                value, other = result.metrics[metric], results[0].metrics.get(metric)
                # One training each: equal or not is all that can be said.
                compared = len(results) == 2 and result is results[1] and other is not None
                row = Row(
                    run=result.run, group=result.name, params="",
                    seeds="" if result.seed is None else str(result.seed),
                    metric=metric, spread="sample sets", n=1, mean=value, std=result.spreads.get(metric),
                    difference=value - other if compared and other is not None else None,
                    p=None, verdict=(SAME if value == other else ONE_SEED) if compared else "",
                )  # fmt: skip
                rows.append(row)
    return rows


def over_seeds(results: Sequence[Result], wanted: Sequence[str] = ()) -> tuple[list[Row], list[str]]:
    """A row for each metric and group of equal params, the first result's group first; and notes on what is left out.

    The same result (params, seed, metrics) counts once. A seed that a group has already, with other numbers, is no
    repetition and is left out too, with a note. Refuses cards that differ.
    """
    refuse_different(results)
    groups, notes = _groups(results)
    first = groups[0][0]
    changed = [key for key in _keys(results) if any(_of(result, key) != _of(first, key) for result in results)]
    rows = []
    for metric in choose_metrics(results, wanted):
        baseline = _values(groups[0], metric)
        for index, group in enumerate(groups):
            values = _values(group, metric)
            if not values:
                continue
            mean, std = mean_and_std(values)
            difference, p, verdict = judge(baseline, values) if index and baseline else (None, None, "")
            row = Row(
                run=first.run, group=_label(group[0], first, changed) if index else first.name,
                params=", ".join(_setting(group[0], key) for key in changed),
                seeds=" ".join(str(result.seed) for result in group if metric in result.metrics),
                metric=metric, spread="seeds", n=len(values), mean=mean, std=std,
                difference=difference, p=p, verdict=verdict,
            )  # fmt: skip
            rows.append(row)
    return rows, notes


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1); the latter is None of one value, and exactly 0 of equal ones."""
    if min(values) == max(values):
        return values[0], 0.0 if len(values) > 1 else None
    return float(np.mean(values)), float(np.std(values, ddof=1))


def judge(baseline: Sequence[float], values: Sequence[float]) -> tuple[float, float | None, str]:
    """Difference of means, p of Welch's t-test (1947), and what they say, of values from one training each.

    A difference exceeds the spread if it is more than two standard errors and p is under 0.05. Fewer than two values
    on a side have no spread, and equal values on both sides no test: then p is None.
    """
    (mean, std), (other, other_std) = mean_and_std(baseline), mean_and_std(values)
    difference = other - mean
    if len({*baseline, *values}) == 1:
        return 0.0, None, SAME
    if std is None or other_std is None:
        return difference, None, ONE_SEED
    if std == other_std == 0:
        return difference, None, NO_SPREAD
    from scipy.stats import ttest_ind  # half a second, which only this needs

    p = float(ttest_ind(values, baseline, equal_var=False).pvalue)
    error = math.hypot(std / math.sqrt(len(baseline)), other_std / math.sqrt(len(values)))
    return difference, p, EXCEEDS if abs(difference) > _ERRORS * error and p < _SIGNIFICANT else WITHIN


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows with all their digits, whole or not at all; empty where there is no number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    write_bytes(path, text.getvalue().encode())


def read_csv(path: Path) -> tuple[Row, ...]:
    """Read what `write_csv` wrote. GenlibError names the line, the column and the value that are wrong."""
    again = "write it again (python -m stages.compare --help)"
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), strict=True)
        lines = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise GenlibError(f"{path}: cannot be read as a comparison ({error}); {again}") from error
    if list(reader.fieldnames or ()) != list(Row.model_fields):
        raise GenlibError(f"{path}: columns {reader.fieldnames} are not {', '.join(Row.model_fields)}; {again}")
    if not lines:
        raise GenlibError(f"{path}: no rows; {again}")
    rows = []
    for count, line in enumerate(lines, 2):
        numbers = {key: line[key] or None for key in ("std", "difference", "p")}
        try:
            rows.append(Row.model_validate({str(key): value for key, value in line.items()} | numbers))
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            raise GenlibError(
                f"{path}: line {count}: {wrong['loc'][-1]}: {wrong['input']!r}: {wrong['msg']}; {again}"
            ) from error
    return tuple(rows)


def in_workspace(run: str) -> Result:
    """The result of a run in the workspace, with the params it was made with.

    GenlibError if params.yaml or a file was changed since, so that they do not belong together.
    """
    lock, place = Path("dvc.lock"), Path("params.yaml")
    for path in (lock, place):
        if not path.is_file():
            raise GenlibError(f"{path}: no such file; run this in the project's folder, after dvc repro")
    return _of_revision("workspace", run, place.read_text("utf-8"), lock.read_text("utf-8"), _from_workspace)


def in_experiments(run: str, rev: str, left_out: Sequence[str] = ()) -> tuple[list[Result], list[str]]:
    """The results of a run in DVC's experiments on the commit `rev`; and a note on each that has none to give.

    Only what git and DVC's cache hold is read: nothing is fetched from a remote.
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
                    results.append(_of_revision(name, run, yaml, lock, lambda _, md5: _from_cache(repo, md5)))
                except FileNotFoundError as error:
                    notes.append(f"{name}: left out: it has no {Path(str(error.filename or error)).name}")
                except GenlibError as error:
                    notes.append(f"{name}: left out: {error}")
            commit = repo.scm.resolve_rev(rev)
            notes.extend(_unfinished(repo, commit))
    except DvcException as error:
        raise GenlibError(f"experiments on {rev}: DVC says: {error}; see dvc exp list {rev}") from error
    return results, notes


_IN_GIT = ("params.yaml", "dvc.lock")


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


def _from_cache(repo: Any, md5: str) -> bytes:
    cached = Path(repo.cache.local.oid_to_path(md5))
    if not cached.is_file():
        raise GenlibError(f"its evaluation.json ({md5}) is not in DVC's cache; dvc exp apply it and run dvc repro")
    return cached.read_bytes()


def _of_revision(name: str, run: str, yaml: str, lock: str, load: Callable[[str, str], bytes]) -> Result:
    """A result from the texts of params.yaml and dvc.lock; `load` turns a path and its md5 into what it holds."""
    try:
        raw, stages = YAML(typ="safe").load(yaml), YAML(typ="safe").load(lock)["stages"]
    except (YAMLError, ValueError, LookupError, TypeError) as error:
        raise GenlibError(f"{name}: params.yaml or dvc.lock is broken: {error}; run dvc repro") from error
    used, places = _params(params.parse(raw), raw, run)
    stage = f"evaluate@{run}"
    code = _code(stages, stage, raw)
    path = f"runs/{used['lane']}/{run}/evaluation.json"
    md5 = next((out["md5"] for out in stages[stage]["outs"] if out["path"] == path), None)
    if md5 is None:
        raise GenlibError(f"{path} is no output of {stage} in dvc.lock; run dvc repro {stage}")
    try:
        everything = json.loads(load(path, md5))
    except ValueError as error:
        raise GenlibError(f"{name}: {path}: not valid JSON ({error}); run dvc repro") from error
    return _result(everything, path, name, run, raw["seed"], used | code, places)


def _params(everything: params.Params, raw: Mapping[str, Any], run: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What a run's numbers depend on, flat, and where each of its own settings is written; without the seed."""
    settings = everything.run(run)
    own = settings.model_dump()
    places = {key: f"runs.{run}.{key}" if key in raw["runs"][run] else f"{settings.model}.{key}" for key in own}
    sections: dict[str, Any] = {
        "data": {name: everything.dataset(name).model_dump() for name in (settings.dataset, settings.features)},
        "features": {settings.features: everything.feature(settings.features).model_dump()},
        "progress": everything.progress.model_dump(),
        "sample": everything.sample.model_dump(),
        "evaluate": everything.evaluate.model_dump(),
    }
    return own | dict(_flat(sections)), places


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


def _result(
    everything: Any,
    path: str,
    name: str,
    run: str,
    seed: int | None,
    used: Mapping[str, Any],
    places: Mapping[str, str],
) -> Result:
    again = f"run dvc repro evaluate@{run}"
    if not isinstance(everything, Mapping) or everything.get("run") != run:
        raise GenlibError(f"{path}: not the evaluation of {run}; {again}")
    metrics, card = everything.get("metrics"), everything.get("card")
    if not isinstance(metrics, Mapping) or not isinstance(card, Mapping):
        raise GenlibError(f"{path}: card or metrics: missing, as in older versions; {again}")
    for key, value in metrics.items():
        if not _number(value):
            raise GenlibError(f"{path}: metrics.{key}: {value!r} is not a finite number; {again}")
    details = [section for section in everything.values() if isinstance(section, Mapping)]
    spreads = {
        key: float(section[key]["std"])
        for key in metrics
        for section in details
        if isinstance(section.get(key), Mapping) and _number(section[key].get("std"))
    }
    own = card.get("seed") if isinstance(card.get("seed"), int) else None
    return Result(
        name, run, own if seed is None else seed, dict(metrics), spreads, dict(_flat(card)), used, places
    )  # fmt: skip


def _groups(results: Sequence[Result]) -> tuple[list[list[Result]], list[str]]:
    groups: list[list[Result]] = []
    notes = []
    for result in results:
        group = next((group for group in groups if group[0].params == result.params), None)
        if group is None:
            groups.append([result])
            continue
        twin = next((other for other in group if other.seed == result.seed), None)
        if twin is None:
            group.append(result)
        elif twin.metrics != result.metrics:
            notes.append(f"{result.name}: left out: {twin.name} has seed {result.seed} already, with other numbers")
    return groups, notes


def _values(group: Sequence[Result], metric: str) -> list[float]:
    return [result.metrics[metric] for result in group if metric in result.metrics]


def _keys(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(key for result in results for key in result.params))


def _of(result: Result, key: str) -> Any:
    return result.params.get(key)


def _label(result: Result, first: Result, keys: Sequence[str]) -> str:
    return ", ".join(_setting(result, key) for key in keys if _of(result, key) != _of(first, key))


def _setting(result: Result, key: str) -> str:
    value = _of(result, key)
    return f"{result.places.get(key, key)}={'off' if value is None else value}"


def _flat(nested: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _at(raw: Any, key: str) -> Any:
    for part in key.split("."):
        raw = raw.get(part) if isinstance(raw, Mapping) else None
    return raw


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
