"""Results as rows of tables: numbers side by side, a run's own, its measuring card, comparisons. Text in every cell."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genlib.comparison import NOT_COMPARED, Row
from genlib.presentation import catalogue, text
from genlib.presentation.catalogue import Metric
from genlib.presentation.comparisons import Comparison
from genlib.presentation.results import (
    BestCheckpoint,
    Evaluation,
    Measured,
    MeasuringCard,
    NotComputed,
    RunResults,
    StandardFeatures,
)

NONE = "\u2013"
_SHA256_DIGITS = 12
_SAID_ELSEWHERE = {"run", "metrics"}


@dataclass(frozen=True)
class MetricRow:
    """A row of the comparison table; `cells` and `limits` ("real images 1.2, pixel Gaussian 90", may be empty) by run.

    `notes`: what is true of all cells: limits that they share, the likelihood that a bound is of. `best` holds the
    indices of the best cells; it is empty where all are equal, neither end of the scale is good, or cards differ.
    """

    metric: Metric
    notes: Sequence[str]
    cells: Sequence[str]
    limits: Sequence[str]
    best: frozenset[int]


@dataclass(frozen=True)
class NumberRow:
    """A number of one run; `floor` and `ceiling` may be empty."""

    metric: Metric
    value: str
    floor: str
    ceiling: str


@dataclass(frozen=True)
class FactRow:
    """A fact in words; `full` is the whole value where what is shown is cut short. `known`: the label is words."""

    label: str
    value: str
    full: str | None
    known: bool


@dataclass(frozen=True)
class CheckpointRow:
    """A checkpoint of a run and its distances."""

    name: str
    cells: Sequence[str]


@dataclass(frozen=True)
class SeedsRow:
    """A metric of one group of a comparison; texts may be empty. `first`: of the group that others differ from."""

    metric: Metric
    group: str
    params: str
    value: str
    trainings: str
    difference: str
    p: str
    verdict: str
    first: bool


def side_by_side(results: Sequence[RunResults]) -> list[MetricRow]:
    """The headline numbers of any of the runs, the leading distance first; each run's own where it was measured."""
    present = dict.fromkeys(key for result in results for key in result.metrics if key not in catalogue.HELPERS)
    leading = results[0].evaluation.card.leading
    known = sorted((key for key in catalogue.METRICS if key in present), key=lambda key: key != leading)
    numbers = [_numbers(result) for result in results]
    cards = [result.evaluation.card for result in results]
    return [_row(key, numbers, cards) for key in [*known, *(key for key in present if key not in catalogue.METRICS)]]


def differing(cards: Sequence[MeasuringCard], of_likelihood: bool = False) -> list[str]:
    """Keys of which any two cards have different values; those of the likelihood only if it is asked for."""
    flat = [dict(_flat(card.model_dump(exclude_unset=True))) for card in cards]
    ignored = NOT_COMPARED if of_likelihood else NOT_COMPARED | catalogue.LIKELIHOOD_FACTS
    keys = dict.fromkeys(key for card in flat for key in card if key not in ignored)
    return [key for key in keys if len({repr(card[key]) for card in flat if key in card}) > 1]


def distance(result: RunResults) -> str:
    """The distance to go by, with its limits, in one line: "FID 218 \u00b1 2 (real images 2.4, pixel Gaussian 800)"."""
    key = result.evaluation.card.leading
    number = _numbers(result).get(key)
    if number is None:
        return ""
    limits = _limits(key, number.model_copy(update={"bias": None}))
    return f"{catalogue.METRICS[key].label} {said(key, number)}" + (f" ({limits})" if limits else "")


def of_samples(evaluation: Evaluation) -> list[NumberRow]:
    """All numbers of a run's samples."""
    return _number_rows(evaluation.samples)


def of_encoding(evaluation: Evaluation) -> list[NumberRow]:
    """All numbers of a run's reconstructions and codes."""
    return _number_rows({key: Measured(mean=value) for key, value in evaluation.encoding.items()})


def checkpoints(best: BestCheckpoint | None, last: Mapping[str, Measured], epochs: float) -> list[CheckpointRow]:
    """The best checkpoint and the last one; empty if they are the same, or no best one was kept."""
    if best is None or best.is_last:
        return []
    names = (f"best: epoch {best.epoch} of {text.number(epochs)}", "last")
    return [
        CheckpointRow(name, [said(key, numbers[key]) if key in numbers else NONE for key in catalogue.DISTANCES])
        for name, numbers in zip(names, (best.samples, last), strict=True)
    ]


def card_facts(evaluation: Evaluation) -> list[FactRow]:
    """The measuring card in words, how well the measuring network does what it was trained for, and further keys."""
    further = {key: value for key, value in (evaluation.model_extra or {}).items() if key not in _SAID_ELSEWHERE}
    flat = dict(_flat(evaluation.card.model_dump(exclude_unset=True) | further))
    order = [*(key for key in catalogue.CARD if key in flat), *(key for key in flat if key not in catalogue.CARD)]
    rows = [_fact(key, flat[key]) for key in order]
    network = evaluation.measuring_network
    if network is None:
        said_of_it = "not known: it was trained on another dataset"
    else:
        said_of_it = f"{text.percent(network.accuracy)}%"
        if network.baseline is not None:
            said_of_it += f" (always the commoner answer: {text.percent(network.baseline)}%)"
    return [*rows[:3], FactRow("That network is right on test images", said_of_it, None, True), *rows[3:]]


def standard(found: NotComputed | StandardFeatures) -> str:
    """The numbers in Inception's features as a sentence, or why there are none."""
    if isinstance(found, NotComputed):
        return f"In the field's own features (Inception): {found.not_computed}."
    return (
        f"In the field's own features ({found.features.name}, {text.number(found.features.dimensions)} dimensions, "
        f"sha256 {found.features.sha256[:_SHA256_DIGITS]}\u2026), {text.number(found.samples)} published samples "
        f"against {text.number(found.reference)} test images: FID {text.number(found.fid)}, "
        f"KID {text.measured(found.kid, found.kid_standard_error)} (standard error)."
    )


def over_seeds(comparison: Comparison) -> list[SeedsRow]:
    """The rows of a comparison, metric by metric."""
    rows = (comparison.row(metric, group) for metric in comparison.metrics for group in comparison.groups)
    return [_seeds_row(row, comparison) for row in rows if row is not None]


def said(key: str, number: Measured) -> str:
    """A number in its metric's unit, with its standard deviation where there is one."""
    shown = _metric(key).shown
    if shown == "yes or no":
        if 0 < number.mean < 1:  # over several trainings
            return f"in {number.mean:.0%}"
        return "yes" if number.mean else "no"
    if shown == "number":
        return text.measured(number.mean, number.std)
    if number.std is None:
        return text.percent(number.mean)
    return text.measured(100 * number.mean, 100 * number.std)


def labels(keys: Iterable[str]) -> list[str]:
    """Keys of the measuring card in words."""
    return [catalogue.CARD[key].label if key in catalogue.CARD else key for key in keys]


def _seeds_row(row: Row, comparison: Comparison) -> SeedsRow:
    first = row.group == comparison.groups[0]
    # The name of an experiment says less than the run that it repeats.
    group = row.run if first and comparison.over_seeds else row.group
    trainings = f"{row.n} {'seed' if row.n == 1 else 'seeds'}" if comparison.over_seeds else "one training"
    return SeedsRow(
        metric=_metric(row.metric),
        group=group,
        params=", ".join(
            part for part in (row.params if first else "", f"seeds {row.seeds}" if row.seeds else "") if part
        ),
        value=said(row.metric, Measured(mean=row.mean, std=row.std)),
        trainings=trainings,
        difference="" if row.difference is None else text.signed(_difference(row.metric, row.difference)),
        p="" if row.p is None else _p(row.p),
        verdict=row.verdict,
        first=first,
    )


def _difference(key: str, difference: float) -> str:
    """Of a metric that is said by yes or no, the number: between yes and no, there are differences of either sign."""
    if _metric(key).shown == "yes or no":
        return text.number(difference)
    return said(key, Measured(mean=difference))


def _p(value: float) -> str:
    return "< 0.001" if value < 1e-3 else f"{value:.2g}"


def _numbers(result: RunResults) -> dict[str, Measured]:
    """Every number of a run, with what stands beside it."""
    evaluation = result.evaluation
    numbers = {key: Measured(mean=value) for key, value in (evaluation.encoding | dict(result.metrics)).items()}
    numbers |= evaluation.samples
    if evaluation.best is not None and {"fid", "fid_best"} <= numbers.keys() and "fid" in evaluation.best.samples:
        best = evaluation.best.samples["fid"]
        numbers["fid_best"] = numbers["fid"].model_copy(update={"mean": best.mean, "std": best.std, "bias": None})
    return numbers


def _row(key: str, numbers: Sequence[Mapping[str, Measured]], cards: Sequence[MeasuringCard]) -> MetricRow:
    metric = _metric(key)
    measured = {index: of_run[key] for index, of_run in enumerate(numbers) if key in of_run}
    values = {index: number.mean for index, number in measured.items()}
    of_likelihood = key in catalogue.LIKELIHOODS
    used = [cards[index] for index in measured]
    best: frozenset[int] = frozenset()
    if metric.better is not None and len(set(values.values())) > 1 and not differing(used, of_likelihood):
        target = min(values.values()) if metric.better == "lower" else max(values.values())
        best = frozenset(index for index, value in values.items() if value == target)
    limits = {index: _limits(key, number) for index, number in measured.items()}
    notes = list(dict.fromkeys(_likelihood(key, card) for card in used)) if of_likelihood else []
    shared = len(set(limits.values())) == 1
    return MetricRow(
        metric=metric,
        notes=[note for note in [*notes, *(list(limits.values())[:1] if shared else [])] if note],
        cells=[said(key, measured[index]) if index in measured else NONE for index in range(len(numbers))],
        limits=["" if shared else limits.get(index, "") for index in range(len(numbers))],
        best=best,
    )


def _limits(key: str, number: Measured) -> str:
    """What it lies between, in its own unit: "real images 1.2, pixel Gaussian 90"; as far as it was measured."""
    limits = {"real images": number.floor, "pixel Gaussian": number.ceiling, "bias": number.bias}
    return ", ".join(f"{word} {said(key, Measured(mean=limit))}" for word, limit in limits.items() if limit is not None)


def _likelihood(key: str, card: MeasuringCard) -> str:
    """What a bound is of: it means nothing without."""
    if card.likelihood is None:
        return ""
    if key == "elbo" or card.importance_samples is None or card.importance_images is None:
        return card.likelihood
    drawn = f"{text.number(card.importance_samples)} draws for each of {text.number(card.importance_images)} images"
    return f"{card.likelihood}; {drawn}"


def _number_rows(numbers: Mapping[str, Measured]) -> list[NumberRow]:
    order = [*(key for key in catalogue.METRICS if key in numbers), *(k for k in numbers if k not in catalogue.METRICS)]
    return [
        NumberRow(_metric(key), said(key, numbers[key]), *(_limit(key, limit) for limit in (one.floor, one.ceiling)))
        for key, one in ((key, numbers[key]) for key in order)
    ]


def _limit(key: str, value: float | None) -> str:
    return "" if value is None else said(key, Measured(mean=value))


def _metric(key: str) -> Metric:
    return catalogue.METRICS.get(key, Metric(key, "", None, ""))


def _fact(key: str, value: Any) -> FactRow:
    words = catalogue.CARD.get(key)
    label = words.label if words else key
    if value is None:
        return FactRow(label, words.missing if words else "none", None, words is not None)
    if key.endswith("sha256") and isinstance(value, str):
        return FactRow(label, f"{value[:_SHA256_DIGITS]}\u2026", value, words is not None)
    return FactRow(label, text.value(value), None, words is not None)


def _flat(nested: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys joined by dots."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
