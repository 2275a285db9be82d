"""One self-contained HTML page for a lane: results in, text out. Needs no torch, no network, no git."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from genlib.errors import GenlibError
from genlib.presentation import catalogue, text
from genlib.presentation.pictures import Picture, embed
from genlib.presentation.results import AttributeAccuracy, Card, Evaluation, MeasuredWith, RunResults, read_run, require
from genlib.settings import RunSettings

_DATA = "data.png"
_NONE = "\u2013"
_SAID_ELSEWHERE = {"lane", "dataset", "model", "run", "metrics", "class_shares", "attribute_shares"}
_SAID_ELSEWHERE |= {"attribute_accuracy"}


@dataclass(frozen=True)
class Folders:
    """Where the stages' outputs lie: runs/<lane> and metrics/<lane>."""

    runs: Path
    metrics: Path


@dataclass(frozen=True)
class RunView:
    """A run as the template sees it."""

    name: str
    kind: str
    results: RunResults
    departures: Sequence[str]
    settings: Mapping[str, str]
    evaluation: Mapping[str, str]
    figures: Sequence[Picture]


@dataclass(frozen=True)
class MetricRow:
    """A row of the comparison table; `cells` and `limits` ("floor 1.2, ceiling 90", may be empty) by run.

    `best` holds the indices of the best cells; it is empty where all are equal or neither end of the scale is good.
    """

    metric: catalogue.Metric
    cells: Sequence[str]
    limits: Sequence[str]
    best: frozenset[int]


@dataclass(frozen=True)
class Side:
    """One half of a picture beside another."""

    run: str
    kind: str
    picture: Picture
    fid: str | None
    limits: str


@dataclass(frozen=True)
class AttributeRow:
    """An attribute by the measuring network's judgement: its share of the test images, and of each run's samples."""

    name: str
    test: str
    samples: Sequence[str]


@dataclass(frozen=True)
class DatasetView:
    """A dataset with its runs. `accuracy`: of the measuring network on test images, by attribute; may be empty."""

    name: str
    card: Card
    accuracy: Mapping[str, AttributeAccuracy]
    sample: Picture
    runs: Sequence[RunView]
    rows: Sequence[MetricRow]
    attributes: Sequence[AttributeRow]
    yardsticks: Sequence[MeasuredWith]
    latents: Sequence[Side]
    samples: Sequence[Side]


def build(lane: str, title: str, runs: Mapping[str, RunSettings], folders: Folders) -> str:
    """The page of a lane as HTML; the same inputs give the same text.

    Args:
        lane: its name.
        title: the page's heading.
        runs: the lane's runs, in the order of showing.
        folders: where their results are.

    Raises:
        GenlibError: the lane has no runs, or a file is missing or broken; names it and the stage that writes it.
    """
    if not runs:
        raise GenlibError(f"params.yaml: lanes.{lane}: no run has lane: {lane}; add one under runs")
    names = list(dict.fromkeys(settings.dataset for settings in runs.values()))
    datasets = [
        _dataset(name, {run: settings for run, settings in runs.items() if settings.dataset == name}, folders)
        for name in names
    ]
    return _environment().get_template("index.html.j2").render(lane=lane, title=title, datasets=datasets)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("genlib.presentation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=text.number,
        percent=text.percent,
        shape=text.shape,
        size=text.size,
        duration=text.duration,
        date=text.date,
    )
    environment.globals.update(catalogue=catalogue)
    return environment


def _dataset(name: str, runs: Mapping[str, RunSettings], folders: Folders) -> DatasetView:
    results = {run: read_run(run, folders.runs / run, folders.metrics / f"{run}.json") for run in runs}
    first = {settings.model: run for run, settings in reversed(list(runs.items()))}
    evaluations = {run: results[run].evaluation for run in runs}
    shown = next(iter(runs))
    return DatasetView(
        name=name,
        card=evaluations[shown].dataset,
        accuracy=next((one.attribute_accuracy for one in evaluations.values() if one.attribute_accuracy), {}),
        sample=embed(
            require(folders.runs / shown / "real" / _DATA, f"sample@{shown}"),
            catalogue.FIGURES[_DATA],
            f"of the dataset {name}",
        ),
        runs=[_run(run, settings, results[run]) for run, settings in runs.items()],
        rows=_comparison([results[run].metrics for run in runs]),
        attributes=_attributes(list(evaluations.values())),
        yardsticks=list(dict.fromkeys(one.measured_with for one in evaluations.values())),
        latents=_beside(first, ("ae", "vae"), results, folders.runs),
        samples=_beside(first, ("vae", "gan"), results, folders.runs),
    )


def _run(run: str, settings: RunSettings, results: RunResults) -> RunView:
    known = [name for name in catalogue.FIGURES if name in results.figures and name != _DATA]
    unknown = [name for name in results.figures if name not in catalogue.FIGURES]
    return RunView(
        name=run,
        kind=_kind(settings.model, results.settings),
        results=results,
        departures=_departures(settings.model, results.settings, results.evaluation.dataset.image_size),
        settings=_shown(results.settings),
        evaluation=_shown(results.evaluation.model_dump()),
        figures=[
            embed(results.figures[name], catalogue.figure(name, settings.model), f"of the run {run}")
            for name in known + unknown
        ],
    )


def _kind(model: str, settings: Mapping[str, Any]) -> str:
    return ("denoising " if settings.get("noise") else "") + catalogue.MODELS.get(model, model)


def _departures(model: str, settings: Mapping[str, Any], image_size: int) -> list[str]:
    """Settings that are not what the presentation states, such as "output sigmoid (stated: relu)"."""
    stated = catalogue.STATED.get(model, {}) if image_size == catalogue.STATED_SIZE else {}
    return [
        f"{key} {text.value(settings[key])} (stated: {text.value(value)})"
        for key, value in stated.items()
        if key in settings and settings[key] != value
    ]


def _beside(
    first: Mapping[str, str], models: tuple[str, str], results: Mapping[str, RunResults], runs: Path
) -> list[Side]:
    """Samples of the first run of either model; empty if the dataset lacks a run of one of them."""
    if not set(models) <= first.keys():
        return []
    sides = []
    for model in models:
        run = first[model]
        path = require(runs / run / "figures" / "samples.png", f"sample@{run}")
        numbers = results[run].metrics
        fid = _cell(numbers, "fid") if "fid" in numbers else None
        kind = catalogue.MODELS[model]
        picture = embed(path, catalogue.figure(path.name, model), f"of the run {run}, {kind}")
        sides.append(Side(run, kind, picture, fid, _limits(numbers, "fid")))
    return sides


def _attributes(evaluations: Sequence[Evaluation]) -> list[AttributeRow]:
    """A row for each attribute that a run's samples were judged by; empty if they were not."""
    judged = dict.fromkeys(name for one in evaluations for name in one.attribute_shares)
    rows = []
    for name in judged:
        shares = [one.attribute_shares.get(name) for one in evaluations]
        test = next(share.test for share in shares if share is not None)
        cells = [_NONE if share is None else text.percent(share.samples) for share in shares]
        rows.append(AttributeRow(name, text.percent(test), cells))
    return rows


def _comparison(metrics: Sequence[Mapping[str, float]]) -> list[MetricRow]:
    present = list(dict.fromkeys(key for values in metrics for key in values))
    limits = {key for keys in catalogue.LIMITS.values() for key in keys.values()}
    known = [key for key in catalogue.METRICS if key in present]
    unknown = [key for key in present if key not in catalogue.METRICS and key not in limits]
    return [_row(key, metrics) for key in known + unknown]


def _row(key: str, metrics: Sequence[Mapping[str, float]]) -> MetricRow:
    metric = catalogue.METRICS.get(key, catalogue.Metric(key, "", None, ""))
    values = {index: numbers[key] for index, numbers in enumerate(metrics) if key in numbers}
    best: frozenset[int] = frozenset()
    if metric.better is not None and len(set(values.values())) > 1:
        target = min(values.values()) if metric.better == "lower" else max(values.values())
        best = frozenset(index for index, value in values.items() if value == target)
    cells = [_cell(numbers, key) for numbers in metrics]
    return MetricRow(metric, cells, [_limits(numbers, key) for numbers in metrics], best)


def _cell(numbers: Mapping[str, float], key: str) -> str:
    return _said(key, numbers[key]) if key in numbers else _NONE


def _limits(numbers: Mapping[str, float], key: str) -> str:
    """What the metric `key` lies between, in its own unit: "floor 1.2, ceiling 90"; as far as it was measured."""
    limits = catalogue.LIMITS.get(key, {}) if key in numbers else {}
    return ", ".join(f"{word} {_said(key, numbers[limit])}" for word, limit in limits.items() if limit in numbers)


def _said(key: str, value: float) -> str:
    metric = catalogue.METRICS.get(key)
    return text.percent(value) if metric and metric.percent else text.number(value)


def _shown(values: Mapping[str, Any]) -> dict[str, str]:
    """What the page does not say elsewhere, as text; nested keys joined by dots."""
    shown: dict[str, str] = {}
    for key, item in values.items():
        if isinstance(item, Mapping):
            shown |= {f"{key}.{inner}": said for inner, said in _shown(item).items()}
        else:
            shown[key] = text.value(item)
    return {key: said for key, said in shown.items() if key.partition(".")[0] not in _SAID_ELSEWHERE}
