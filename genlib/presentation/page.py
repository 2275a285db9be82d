"""The results page of a lane, all numbers and pictures in one HTML file. Needs no torch, no network, no git."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from genlib.errors import GenlibError
from genlib.presentation import catalogue, tables, text
from genlib.presentation.comparisons import Comparison, read_comparisons
from genlib.presentation.pictures import Picture, embed, embed_all
from genlib.presentation.results import (
    AttributeAccuracy,
    Card,
    Evaluation,
    Folders,
    MeasuringCard,
    MeasuringNetwork,
    RunResults,
    read_run,
    require,
)
from genlib.settings import RunSettings

_DATA = "data.png"
_SAID_ELSEWHERE = {"lane", "dataset", "model", "run"}


@dataclass(frozen=True)
class Measurements:
    """How a run was measured, and all that came out. `standard`: what there is in Inception's features, or None."""

    facts: Sequence[tables.FactRow]
    samples: Sequence[tables.NumberRow]
    encoding: Sequence[tables.NumberRow]
    checkpoints: Sequence[tables.CheckpointRow]
    standard: str | None


@dataclass(frozen=True)
class RunView:
    """A run as the template sees it."""

    name: str
    kind: str
    results: RunResults
    departures: Sequence[str]
    settings: Mapping[str, str]
    measured: Measurements
    figures: Sequence[Picture]


@dataclass(frozen=True)
class Side:
    """One half of a picture beside another; `distance` in words."""

    run: str
    kind: str
    picture: Picture
    distance: str


@dataclass(frozen=True)
class AttributeRow:
    """An attribute by the measuring network's judgement: its share of the test images, and of each run's samples."""

    name: str
    test: str
    samples: Sequence[str]


@dataclass(frozen=True)
class Yardstick:
    """What runs were measured with; `network` is None where it was trained on another dataset."""

    card: MeasuringCard
    network: MeasuringNetwork | None


@dataclass(frozen=True)
class DatasetView:
    """A dataset with its runs. `accuracy`: of the measuring network on test images, by attribute; may be empty.

    `differing`: what the cards of the runs differ in, in words.
    """

    name: str
    card: Card
    accuracy: Mapping[str, AttributeAccuracy]
    sample: Picture
    runs: Sequence[RunView]
    rows: Sequence[tables.MetricRow]
    attributes: Sequence[AttributeRow]
    yardsticks: Sequence[Yardstick]
    differing: Sequence[str]
    latents: Sequence[Side]
    samples: Sequence[Side]


@dataclass(frozen=True)
class ComparisonView:
    """A comparison of runs. `differences`: there is more than one group to tell apart."""

    name: str
    title: str
    rows: Sequence[tables.SeedsRow]
    differences: bool
    over_seeds: bool


def build(lane: str, title: str, runs: Mapping[str, RunSettings], folders: Folders) -> str:
    """The results page of a lane as HTML; the same inputs give the same text.

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
    comparisons = [_compared(one) for one in read_comparisons(folders.comparisons)] if folders.comparisons else []
    template = environment().get_template("results.html.j2")
    return template.render(lane=lane, title=title, datasets=datasets, comparisons=comparisons)


def environment() -> Environment:
    """Templates with the filters that both pages use; an unknown name is an error, and all text is escaped."""
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
    networks = [one.measuring_network for one in evaluations.values()]
    shown = next(iter(runs))
    return DatasetView(
        name=name,
        card=evaluations[shown].dataset,
        accuracy=next((one.attributes for one in networks if one is not None and one.attributes), {}),
        sample=embed(
            require(folders.runs / shown / "real" / _DATA, f"sample@{shown}"),
            catalogue.FIGURES[_DATA],
            f"of the dataset {name}",
        ),
        runs=[_run(run, settings, results[run]) for run, settings in runs.items()],
        rows=tables.side_by_side(list(results.values())),
        attributes=_attributes(list(evaluations.values())),
        yardsticks=_yardsticks(list(evaluations.values())),
        differing=tables.labels(tables.differing([one.card for one in evaluations.values()])),
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
        departures=catalogue.departures(settings.model, results.settings, results.evaluation.dataset.image_size),
        settings=_shown(results.settings),
        measured=_measured(results),
        figures=embed_all(
            [(results.figures[name], catalogue.figure(name, settings.model)) for name in known + unknown],
            f"of the run {run}",
        ),
    )


def _kind(model: str, settings: Mapping[str, Any]) -> str:
    return ("denoising " if settings.get("noise") else "") + catalogue.MODELS.get(model, model)


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
        kind = catalogue.MODELS[model]
        picture = embed(path, catalogue.figure(path.name, model), f"of the run {run}, {kind}")
        sides.append(Side(run, kind, picture, tables.distance(results[run])))
    return sides


def _attributes(evaluations: Sequence[Evaluation]) -> list[AttributeRow]:
    """A row for each attribute that a run's samples were judged by; empty if they were not."""
    judged = dict.fromkeys(name for one in evaluations for name in one.attribute_shares)
    rows = []
    for name in judged:
        shares = [one.attribute_shares.get(name) for one in evaluations]
        test = next(share.test for share in shares if share is not None)
        cells = [tables.NONE if share is None else text.percent(share.samples) for share in shares]
        rows.append(AttributeRow(name, text.percent(test), cells))
    return rows


def _measured(results: RunResults) -> Measurements:
    evaluation = results.evaluation
    found = evaluation.inception
    return Measurements(
        facts=tables.card_facts(evaluation),
        samples=tables.of_samples(evaluation),
        encoding=tables.of_encoding(evaluation),
        checkpoints=tables.checkpoints(evaluation.best, evaluation.samples, results.history["epoch"]),
        standard=tables.standard(found) if found else None,
    )


def _yardsticks(evaluations: Sequence[Evaluation]) -> list[Yardstick]:
    """The different ways in which runs were measured, as far as they do not depend on the run."""
    found: list[Yardstick] = []
    for one in evaluations:
        if all(tables.differing([one.card, other.card]) for other in found):
            found.append(Yardstick(one.card, one.measuring_network))
    return found


def _compared(comparison: Comparison) -> ComparisonView:
    rows = tables.over_seeds(comparison)
    differences = any(row.difference or row.verdict for row in rows)
    return ComparisonView(comparison.name, comparison.title, rows, differences, comparison.over_seeds)


def _shown(values: Mapping[str, Any]) -> dict[str, str]:
    """What the page does not say elsewhere, as text; nested keys joined by dots."""
    shown: dict[str, str] = {}
    for key, item in values.items():
        if isinstance(item, Mapping):
            shown |= {f"{key}.{inner}": said for inner, said in _shown(item).items()}
        else:
            shown[key] = text.value(item)
    return {key: said for key, said in shown.items() if key.partition(".")[0] not in _SAID_ELSEWHERE}
