"""Slides 9 to 14 of the presentation, and those of datasets of one's own: data, networks, results."""

from collections.abc import Iterator, Sequence

from genlib.presentation import catalogue, tables, text
from genlib.presentation.deck.blocks import Bars, Block, Column, Facts, Provenance, Slide, Table, Yardstick
from genlib.presentation.deck.lane import Lane, Run, diagrams, origin, progress_film, provenance, still
from genlib.presentation.results import Card

ROWS = {"mnist": "9\u201312", "digits": "9\u201312", "lfw": "13", "celeba": "14", "faces": "13\u201314"}
"""The presentation's slides that a dataset stands for; other datasets are the user's own."""

_NUMBERS = ("precision", "recall", "coverage", "classes_covered", "attribute_gap")
_MOST_COUNTS = 12


def dataset(lane: Lane, name: str) -> Iterator[Slide]:
    """The slides of a dataset: what it is, the networks, what they draw, how that measures up."""
    vae, gan = (lane.first(model, name, lambda run: run.settings.latent_dim != 2) for model in ("vae", "gan"))
    vae = vae or lane.first("vae", name)
    runs = [run for run in lane.runs if run.settings.dataset == name]
    best = [run for run in (vae, gan) if run is not None] or runs[:2]
    card, role = runs[0].card, ROWS.get(name, "")
    digits = role == ROWS["mnist"]
    yield _data(runs[0], "9" if digits else role)
    if vae is not None and (digits or not role):
        yield _architecture(vae, runs, "10" if digits else role, "VAE architecture")
    if gan is not None and (role != ROWS["celeba"] or "lfw" not in lane.datasets):
        yield _architecture(gan, runs, "11" if digits else role, "GAN architecture")
    if not {"vae", "gan"} & {run.model for run in runs}:
        yield _architecture(runs[0], runs, "10" if digits else role, "architecture")
    row = "12" if digits else role
    yield _results(card, best, row)
    yield _measured(card, best, row)
    yield Slide(
        f"{name}-progress",
        row,
        f"{card.title}: learning",
        "From noise to images" if gan is not None else "Learning to draw",
        [Column([progress_film(run, f"{run.kind}, {run.name}")]) for run in best],
        provenance=provenance(best),
    )
    if gan is not None and role in (ROWS["celeba"], ROWS["faces"]):
        yield Slide(
            f"{name}-four-points",
            row,
            f"{card.title}: GAN results",
            "The GAN at four points of its training",
            [Column([still(gan, "training_points.png", "The same random codes after more and more images seen.")])],
            notices=_editions([card]),
            provenance=provenance([gan]),
        )


def _data(run: Run, row: str) -> Slide:
    card = run.card
    counts = ", ".join(
        f"{text.number(count)} {catalogue.SPLITS.get(split, split)}" for split, count in card.counts.items()
    )
    side: list[Block] = [
        Facts(
            [
                (text.number(sum(card.counts.values())), f"images ({counts})"),
                (
                    f"{card.image_size} \u00d7 {card.image_size}",
                    "pixels, " + ("grey" if card.channels == 1 else "colour"),
                ),
            ]
        )
    ]
    if card.labels == "classes" and len(card.classes) > 1 and card.class_counts.get("train"):
        values = dict(zip(card.classes, card.class_counts["train"], strict=True))
        side.append(Bars("training images of each class", dict(list(values.items())[:_MOST_COUNTS])))
    elif card.labels == "attributes" and card.class_counts.get("train"):
        shares = {one.replace("_", " "): 100 * card.training_share(one) for one in card.classes}
        most = sorted(shares, key=lambda one: -shares[one])[:8]
        side.append(Bars("commonest attributes, % of training images", {one: round(shares[one], 1) for one in most}))
    elif card.people_counts:
        side.append(Facts([(text.number(sum(card.people_counts.values())), "people, none of them in two splits")]))
    fitted = f"crop {card.crop or 'none'}, resize {card.resize or 'none'}"
    if not (card.crop or card.resize):
        fitted = "neither cropped nor resized"
    shared = f"{origin(card)}; {card.split_rule}; {fitted}"
    return Slide(
        f"{card.dataset}-data",
        row,
        f"{card.title}: data",
        f"{_capital(card.title)}: what is to be learned",
        [Column([still(run, "data.png")], 3), Column(side, 2)],
        notices=_editions([card]),
        provenance=[Provenance("", shared, "")],
    )


def _architecture(run: Run, others: Sequence[Run], row: str, kind: str) -> Slide:
    networks = run.results.architecture.networks
    total = sum(network.parameters for network in networks)
    departures = catalogue.departures(run.model, run.results.settings, run.card.image_size)
    notices = [f"Differs from what the original presentation states: {'; '.join(departures)}."] if departures else []
    return Slide(
        f"{run.card.dataset}-{run.model}-architecture",
        row,
        f"{run.card.title}: {kind}",
        f"{_capital(run.kind)}: {_counted(len(networks))}, {text.number(total)} weights",
        [Column(diagrams(run))],
        notices=[*notices, *_outputs(run, others)],
        provenance=provenance([run]),
    )


def _outputs(run: Run, others: Sequence[Run]) -> list[str]:
    """How a run compares with those that differ from it in the last activation only."""
    ignored = {"output"}
    own = run.settings.model_dump(exclude=ignored)
    alike = [one for one in others if one.model == run.model and one.settings.model_dump(exclude=ignored) == own]
    said = [f"{one.settings.model_dump().get('output')} {tables.distance(one.results)} ({one.name})" for one in alike]
    return [f"Measured by the last activation: {'; '.join(said)}."] if len(said) > 1 else []


def _results(card: Card, runs: Sequence[Run], row: str) -> Slide:
    epochs = {run.model: f" after {run.settings.epochs} epoch{'' if run.settings.epochs == 1 else 's'}" for run in runs}
    return Slide(
        f"{card.dataset}-results",
        row,
        f"{card.title}: results",
        " beside ".join(run.kind for run in runs) + ": samples, not selected",
        [
            Column([still(run, "samples.png", f"{run.kind}{epochs[run.model]}: {tables.distance(run.results)}")])
            for run in runs
        ],
        notices=[*_editions([card]), *_collapses(runs)],
        provenance=provenance(runs),
    )


def _measured(card: Card, runs: Sequence[Run], row: str) -> Slide:
    found = [run.results for run in runs]
    rows = [
        [
            one.metric.label + _unit(one.metric.unit) + _arrow(one.metric.better),
            *one.cells,
            "; ".join(one.notes) or "differs, see all results",
        ]
        for one in tables.side_by_side(found)
        if one.metric in [catalogue.METRICS[key] for key in _NUMBERS]
    ]
    made = found[0].evaluation.card
    spread = (
        f"± over {made.sets} sets of {text.number(made.samples)} samples" if made.sets > 1 else "one set of samples"
    )
    differing = tables.labels(tables.differing([one.evaluation.card for one in found]))
    notices = [f"Not all measured alike ({', '.join(differing)}): these numbers do not compare."] if differing else []
    lead = (
        f"In the features of a {made.features.name}, against {text.number(made.reference)} {made.split} images; "
        f"{spread}. For scale: what other real images get, and draws of a Gaussian of the training pixels."
    )
    return Slide(
        f"{card.dataset}-numbers",
        row,
        f"{card.title}: results in numbers",
        "How far from real, by the same yardsticks",
        [
            Column([_yardstick(runs), Table(["", *(run.name for run in runs), "limits"], rows)]),
        ],
        lead,
        notices=notices,
        provenance=provenance(runs),
    )


def _yardstick(runs: Sequence[Run]) -> Block:
    """The leading distance of each run, between what real images and what a Gaussian of the pixels get."""
    key = runs[0].results.evaluation.card.leading
    numbers = {run.name: run.results.evaluation.samples[key] for run in runs if key in run.results.evaluation.samples}
    first = next(iter(numbers.values()), None)
    metric = catalogue.METRICS[key]
    if first is None or first.ceiling is None:
        said = [(tables.distance(run.results), run.name) for run in runs]
        return Facts(said)
    marks = {name: (number.mean, tables.said(key, number)) for name, number in numbers.items()}
    return Yardstick(metric.label, first.floor or 0.0, first.ceiling, marks, metric.better)


def _counted(networks: int) -> str:
    return {1: "one network", 2: "two networks"}.get(networks, f"{networks} networks")


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _unit(unit: str) -> str:
    return f" ({unit})" if unit else ""


def _arrow(better: str | None) -> str:
    return {"lower": " ↓", "higher": " ↑", None: ""}[better]


def _editions(cards: Sequence[Card]) -> list[str]:
    return [f"{card.title}: {card.edition}." for card in cards if card.edition]


def _collapses(runs: Sequence[Run]) -> list[str]:
    return [f"{run.name}: {run.results.evaluation.collapse}." for run in runs if run.results.evaluation.collapse]
