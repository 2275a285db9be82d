"""Results side by side: runs of the workspace, or one run over seeds and settings in DVC's experiments.

Only results whose cards agree are compared: measured in the same features, against the same images, in the same way.
Whether a difference means something is judged by the spread over seeds, that is over repeated trainings; the spread
over sample sets of one model is shown, and says nothing of what another training would give.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt, ValidationError

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
    return result_of(read_json(path), str(path), run, run, None, {}, {})


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
    write_table(path, list(Row.model_fields), [row.model_dump() for row in rows])


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file, whole or not at all; empty where a row has no such column or None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
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


def result_of(
    everything: Any,
    path: str,
    name: str,
    run: str,
    seed: int | None,
    used: Mapping[str, Any],
    places: Mapping[str, str],
) -> Result:
    """The result that an evaluation.json holds, `everything`. GenlibError naming `path` if it is not of that shape."""
    again = f"run dvc repro evaluate@{run}"
    if not isinstance(everything, Mapping) or everything.get("run") != run:
        raise GenlibError(f"{path}: not the evaluation of {run}; {again}")
    metrics, card = everything.get("metrics"), everything.get("card")
    if not isinstance(metrics, Mapping) or not isinstance(card, Mapping):
        raise GenlibError(f"{path}: card or metrics: missing, as in older versions; {again}")
    for key, value in metrics.items():
        if not _number(value):
            raise GenlibError(f"{path}: metrics.{key}: {value!r} is not a finite number; {again}")
    # The flat file has fid_std beside fid, for its readers; here it is the spread of fid and no metric.
    metrics = {k: v for k, v in metrics.items() if not (k.endswith("_std") and k.removesuffix("_std") in metrics)}
    details = [section for section in everything.values() if isinstance(section, Mapping)]
    spreads = {
        key: float(section[key]["std"])
        for key in metrics
        for section in details
        if isinstance(section.get(key), Mapping) and _number(section[key].get("std"))
    }
    own = card.get("seed") if isinstance(card.get("seed"), int) else None
    return Result(
        name, run, own if seed is None else seed, dict(metrics), spreads, dict(flat(card)), used, places
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


def flat(nested: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Keys and values of nested mappings, the keys joined by dots."""
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
