"""Which slides there are and what is on them: those of the presentation that the lane has runs for, in its order."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from genlib.errors import GenlibError
from genlib.files import read_json
from genlib.presentation import catalogue, tables, text
from genlib.presentation.deck import decoder
from genlib.presentation.deck.blocks import (
    Bars,
    Block,
    Column,
    Deck,
    Explorer,
    Facts,
    Formula,
    Missing,
    Moves,
    Points,
    Provenance,
    Slide,
    Table,
    Yardstick,
)
from genlib.presentation.deck.lane import (
    Lane,
    Run,
    codes_film,
    diagrams,
    game,
    losses,
    missing_run,
    origin,
    progress_film,
    provenance,
    read,
    still,
)
from genlib.presentation.deck.media import read_progress
from genlib.presentation.results import Card, Folders
from genlib.settings import RunSettings

_ROWS = {"mnist": "9\u201312", "digits": "9\u201312", "lfw": "13", "celeba": "14", "faces": "13\u201314"}
"""The presentation's slides that a dataset stands for; other datasets are the user's own."""

_Kind = TypeVar("_Kind", bound=BaseModel)

_NUMBERS = ("precision", "recall", "coverage", "classes_covered", "attribute_gap")
_MOST_COUNTS = 12


def build(lane: str, title: str, runs: Mapping[str, RunSettings], folders: Folders) -> Deck:
    """The deck of a lane; the same inputs give the same slides.

    Args:
        lane: its name.
        title: of the first slide.
        runs: the lane's runs, in the order of params.yaml.
        folders: where their results are.

    Raises:
        GenlibError: the lane has no runs, or a file is missing or broken; names it and the stage that writes it.
    """
    found = read(lane, title, runs, folders)
    people = list(dict.fromkeys(run.card.title for run in found.runs if run.card.people))
    return Deck(lane, title, people, list(_all(found)))


def _all(lane: Lane) -> Iterator[Slide]:
    yield _opening(lane)
    if lane.of("ae"):
        yield _autoencoder(lane, lane.of("ae")[0])
    if lane.of("vae"):
        yield from _vae(lane, lane.of("vae")[0])
    if lane.of("gan"):
        yield from _gan(lane)
    for name in lane.datasets:
        yield from _dataset(lane, name)
    if any(name in _ROWS for name in lane.datasets):
        yield _future(lane)


def _opening(lane: Lane) -> Slide:
    drawn = [*lane.of("vae"), *lane.of("gan")] or lane.runs
    shown = [run for run in drawn if run.settings.latent_dim != 2] or drawn
    picked = {run.name: run for run in (shown[0], lane.first("gan") or shown[0], shown[-1])}.values()
    columns = [Column([still(run, "samples.png", f"{run.kind} on {run.card.title}")]) for run in picked]
    names = ", ".join(dict.fromkeys(run.card.title for run in lane.runs))
    lead = (
        f"{len(lane.runs)} trainings on {names}. Every picture and number on these slides was computed from the data; "
        f"`dvc repro present@{lane.name}` makes them again."
    )
    return Slide("start", "", "", lane.title, columns, lead, provenance=())


# The autoencoder and the VAE


def _autoencoder(lane: Lane, run: Run) -> Slide:
    encoding, card = run.results.evaluation.encoding, run.card
    values = card.channels * card.image_size**2
    facts = [(f"{run.settings.latent_dim}", f"numbers in place of {values:,}")]
    if {"recon_mse", "pca_mse"} <= encoding.keys() and encoding["recon_mse"] > 0:
        ratio = encoding["pca_mse"] / encoding["recon_mse"]
        facts.append((f"{ratio:.1f}\u00d7", "smaller squared error than PCA's with as many numbers"))
    plain = not _noise(run)
    left: list[Block] = [still(run, "reconstructions.png" if plain else "denoising.png"), Facts(facts)]
    denoising = lane.first("ae", where=_noise)
    right: list[Block]
    if denoising is None:
        line = f"{card.dataset}-dae: as {run.name}, with noise: 0.5"
        right = [missing_run("Denoising: no autoencoder of this lane was trained with noise", line, lane.name)]
    else:
        right = [still(denoising, "denoising.png")]
        found = denoising.results.evaluation.encoding
        if {"noisy_psnr", "restored_psnr"} <= found.keys():
            said = f"{found['noisy_psnr']:.1f} → {found['restored_psnr']:.1f} dB"
            right.append(Facts([(said, "signal-to-noise ratio (PSNR), noisy and restored")]))
    columns = [Column(left, 2), Column(right, 1 if denoising is None else 2)] if plain else [Column(right)]
    return Slide(
        "autoencoder",
        "1",
        "Traditional autoencoder",
        f"An autoencoder squeezes an image through {run.settings.latent_dim} numbers",
        columns,
        "Unsupervised: it learns a code of its own for compression, or to take noise away.",
        provenance=provenance([run, denoising]),
    )


def _noise(run: Run) -> bool:
    return bool(getattr(run.settings, "noise", 0.0))


def _vae(lane: Lane, run: Run) -> Iterator[Slide]:
    plain = lane.first("ae", run.settings.dataset, lambda one: not _noise(one))
    beside: list[Column] = []
    if plain is None:
        line = f"{run.card.dataset}-ae: as {run.name}, with model: ae"
        beside.append(Column([missing_run("No autoencoder on the same data to compare with", line, lane.name)]))
    else:
        caption = f"Autoencoder: random codes decode to nothing much. {tables.distance(plain.results)}"
        beside.append(Column([still(plain, "samples.png", caption)]))
    caption = f"VAE: random codes decode to images. {tables.distance(run.results)}"
    yield Slide(
        "vae",
        "2",
        "Variational autoencoder",
        "A VAE can be sampled: its codes fill a Gaussian",
        [*beside, Column([still(run, "samples.png", caption)])],
        "The encoder gives a Gaussian instead of a point (Kingma & Welling 2013). "
        "Codes drawn at random from N(0, I), decoded:",
        provenance=provenance([plain, run]),
    )
    yield from _latent_space(lane, run)
    yield Slide(
        "two-losses",
        "4",
        "VAE learning",
        "A VAE minimises two losses at once",
        [
            Column([losses(run, "generation", "generation loss: squared error per image", log=True)]),
            Column([losses(run, "latent", "latent loss: KL to N(0, I), nats per image")]),
        ],
        "Images must come back, and codes must look like the unit Gaussian. Point at a curve to read its values.",
        provenance=provenance([run]),
    )
    yield Slide(
        "reparameterization",
        "4",
        "VAE learning: reparameterization trick",
        "The reparameterization trick makes the gradient usable",
        [
            Column(
                [
                    Formula(
                        "z = μ + \u03c3 · ε,   ε ~ N(0, I)", "the noise comes from outside, so the error can flow back"
                    ),
                    Points(
                        [
                            "Without it: the score function, E[f(z) · ∇ log q(z|x)], right on average and very noisy.",
                            "All three estimate the same gradient, on the same images with the same noise.",
                        ]
                    ),
                ],
                2,
            ),
            Column([_gradient_variance(run)], 3),
        ],
        provenance=provenance([run]),
    )


def _latent_space(lane: Lane, vae: Run) -> Iterator[Slide]:
    run = lane.first("vae", where=lambda one: one.settings.latent_dim == 2)
    topic = "Latent space learned by a VAE"
    if run is None:
        line = f"{vae.card.dataset}-vae-2d: as {vae.name}, with latent_dim: 2"
        absent = missing_run("No VAE of this lane has a code of two numbers, which a plane can show", line, lane.name)
        yield Slide("latent-space", "3", topic, "The latent space forms while the VAE learns", [Column([absent])])
    else:
        yield Slide(
            "latent-space",
            "3",
            topic,
            "The latent space forms while the VAE learns",
            [
                Column([codes_film(run, "Each dot is a held-out image; its class, the colour, was never shown.")]),
                Column([still(run, "manifold.png", "What each place of the plane decodes to.")]),
            ],
            provenance=provenance([run]),
        )
        yield Slide(
            "explorer",
            "3",
            f"{topic}: explore it",
            "Every point of the plane is an image",
            [Column([_explorer(run)])],
            "Point at the map, drag, or use the arrow keys: the trained decoder runs in this page.",
            provenance=provenance([run]),
        )
    yield Slide(
        "interpolations",
        "3",
        f"{topic}: between two images",
        "Between two images lie images",
        [Column([still(vae, "interpolations.png", "Left and right: held-out images. Between: codes in equal steps.")])],
        provenance=provenance([vae]),
    )


class _GradientVariance(BaseModel):
    model_config = ConfigDict(frozen=True)

    draws: int
    images: int
    total_variance: dict[str, float]


def _gradient_variance(run: Run) -> Block:
    path = run.folder / "figures" / "gradient_variance.json"
    if not path.exists():
        return Missing(f"Variance of {run.name}'s gradient: {path.name} is not there", f"dvc repro sample@{run.name}")
    found = _checked(_GradientVariance, path, run)
    positive = {name: value for name, value in found.total_variance.items() if value > 0}
    title = f"total variance of the encoder's gradient (log scale; {found.draws} draws, {found.images} images)"
    return Bars(title, positive, log=True)


def _explorer(run: Run) -> Block:
    network = next((one for one in run.results.architecture.networks if one.name == "decoder"), None)
    why_not = "it has no decoder" if network is None else decoder.refusal(network)
    path, model = run.folder / "training" / "progress.safetensors", run.folder / "model.safetensors"
    if why_not is None and not (path.exists() and model.exists()):
        why_not = "its model file or its codes are not there"
    if network is None or why_not is not None:
        return Missing(f"{run.name} cannot be explored here: {why_not}", f"dvc repro train@{run.name}")
    codes = _codes(run)
    reach = max(3.0, min(5.0, max(abs(value) for code in codes for value in code))) if codes else 3.0
    manifold = run.results.figures.get("manifold.png")
    return Explorer(run.name, decoder.describe(network, model, run.name), codes, (-reach, reach), manifold)


def _codes(run: Run) -> list[tuple[float, float]]:
    progress = read_progress(run.folder / "training" / "progress.safetensors", run.name)
    if "codes" not in progress:
        return []
    return [(round(float(x), 3), round(float(y), 3)) for x, y in progress["codes"][-1]]


# The GAN


def _gan(lane: Lane) -> Iterator[Slide]:
    runs = lane.of("gan")
    for index, run in enumerate(runs):
        yield Slide(
            "gan" if index == 0 else f"gan-{run.name}",
            "5",
            f"GAN: {run.card.title}",
            "Two networks play a game" if index == 0 else f"The same game on {run.card.title}",
            [
                Column(
                    [
                        game(
                            run,
                            {"discriminator": "discriminator D", "generator": "generator G"},
                            "losses of the two players, nats per image",
                            None,
                        )
                    ]
                ),
                Column(
                    [
                        game(
                            run,
                            {"d_real": "real: D(x)", "d_fake": "generated: D(G(z))"},
                            "probability of being real, as D sees it",
                            "cannot tell",
                        )
                    ]
                ),
            ],
            "G draws images from noise; D tells them from real ones; G maximises the probability that D errs."
            if index == 0
            else "",
            provenance=provenance([run]),
        )
    yield Slide(
        "who-moves-when",
        "6",
        "GAN learning mechanism",
        "One network is held constant while the other learns",
        [Column([_moves(run) for run in runs[:3]])],
        "Measured: how far each network's weights move in each half of a training step. "
        "The network that is held constant moves by exactly 0.",
        provenance=provenance(runs[:3]),
    )
    yield _training_d(runs[0])
    yield _training_g(runs[0])


class _HalfStep(BaseModel):
    model_config = ConfigDict(frozen=True)

    moves: str
    changes: dict[str, float]


class _Alternation(BaseModel):
    model_config = ConfigDict(frozen=True)

    batch_size: int
    half_steps: tuple[_HalfStep, ...]


def _moves(run: Run) -> Block:
    path = run.folder / "figures" / "alternation.json"
    if not path.exists():
        return Missing(f"Who moves when in {run.name}: {path.name} is not there", f"dvc repro sample@{run.name}")
    found = _checked(_Alternation, path, run)
    order = [half.moves for half in found.half_steps]  # a player is called like the network it moves
    named = dict.fromkeys(name for half in found.half_steps for name in half.changes)
    networks = sorted(named, key=lambda name: order.index(name) if name in order else len(order))
    return Moves(run.name, networks, [(half.moves, half.changes) for half in found.half_steps])


def _training_d(run: Run) -> Slide:
    label = text.number(getattr(run.settings, "real_label", 1.0))
    return Slide(
        "training-d",
        "7",
        "Training D",
        "D learns to tell: real images are 1, generated ones 0",
        [
            Column(
                [
                    Formula(
                        "L(D) = \u2212 log D(x) \u2212 log (1 \u2212 D(G(z)))",
                        "binary cross-entropy; G is held constant",
                    ),
                    Points(
                        [f"Label of real images in this run: {label}.", "When D is right half of the time, it guesses."]
                    ),
                ],
                2,
            ),
            Column(
                [
                    game(
                        run,
                        {"accuracy_real": "real", "accuracy_fake": "generated"},
                        "share of images that D is right about",
                        "guesses",
                    )
                ],
                3,
            ),
        ],
        provenance=provenance([run]),
    )


def _training_g(run: Run) -> Slide:
    return Slide(
        "training-g",
        "8",
        "Training G",
        "G learns from what D makes of its images",
        [
            Column(
                [
                    Formula("L(G) = \u2212 log D(G(z))", "the label taken is 1: the non-saturating loss"),
                    Points(
                        [
                            "The error passes through D back to G; only G's weights move.",
                            "Move the slider: the same random codes as training goes on.",
                        ]
                    ),
                ],
                2,
            ),
            Column([progress_film(run, f"{run.name}: the same random codes")], 3),
        ],
        provenance=provenance([run]),
    )


# The datasets


def _dataset(lane: Lane, name: str) -> Iterator[Slide]:
    vae, gan = (lane.first(model, name, lambda run: run.settings.latent_dim != 2) for model in ("vae", "gan"))
    vae = vae or lane.first("vae", name)
    runs = [run for run in lane.runs if run.settings.dataset == name]
    best = [run for run in (vae, gan) if run is not None] or runs[:2]
    card, role = runs[0].card, _ROWS.get(name, "")
    digits = role == _ROWS["mnist"]
    yield _data(runs[0], "9" if digits else role)
    if vae is not None and (digits or not role):
        yield _architecture(vae, "10" if digits else role, "VAE architecture")
    if gan is not None and (role != _ROWS["celeba"] or "lfw" not in lane.datasets):
        yield _architecture(gan, "11" if digits else role, "GAN architecture")
    if not {"vae", "gan"} & {run.model for run in runs}:
        yield _architecture(runs[0], role, "architecture")
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
    if gan is not None and role in (_ROWS["celeba"], _ROWS["faces"]):
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
    if card.labels == "classes" and card.class_counts.get("train"):
        values = dict(zip(card.classes, card.class_counts["train"], strict=True))
        side.append(Bars("training images of each class", dict(list(values.items())[:_MOST_COUNTS])))
    elif card.labels == "attributes" and card.class_counts.get("train"):
        shares = {one.replace("_", " "): 100 * card.training_share(one) for one in card.classes}
        most = sorted(shares, key=lambda one: -shares[one])[:8]
        side.append(Bars("commonest attributes, % of training images", {one: round(shares[one], 1) for one in most}))
    elif card.people_counts:
        side.append(Facts([(text.number(sum(card.people_counts.values())), "people, none of them in two splits")]))
    shared = f"{origin(card)}; {card.split_rule}; crop {card.crop or 'none'}, resize {card.resize or 'none'}"
    return Slide(
        f"{card.dataset}-data",
        row,
        f"{card.title}: data",
        f"{_capital(card.title)}: what is to be learned",
        [Column([still(run, "data.png")], 3), Column(side, 2)],
        notices=_editions([card]),
        provenance=[Provenance("", shared, "")],
    )


def _architecture(run: Run, row: str, kind: str) -> Slide:
    total = sum(network.parameters for network in run.results.architecture.networks)
    departures = catalogue.departures(run.model, run.results.settings, run.card.image_size)
    said = f"Differs from what the presentation states: {'; '.join(departures)}." if departures else ""
    return Slide(
        f"{run.card.dataset}-{run.model}-architecture",
        row,
        f"{run.card.title}: {kind}",
        f"{_capital(run.kind)}: two networks, {text.number(total)} weights",
        [Column(diagrams(run))],
        notices=[said] if said else (),
        provenance=provenance([run]),
    )


def _results(card: Card, runs: Sequence[Run], row: str) -> Slide:
    epochs = {run.model: f" after {run.settings.epochs} epochs" for run in runs}
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
        f"{spread}. Floor: what other real images get. Ceiling: a Gaussian of the pixels."
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


# What was left to do


def _future(lane: Lane) -> Slide:
    repeated = [one.title for one in lane.comparisons if one.over_seeds]
    compared = (
        f"{len(lane.comparisons)} in this lane ({'; '.join(one.title for one in lane.comparisons)})"
        if lane.comparisons
        else "none in this lane yet: `python -m stages.compare`"
    )
    sizes = sorted({run.card.image_size for run in lane.runs})
    nets = sorted({run.settings.net for run in lane.of("gan")})
    rows = [
        [
            "Compare systematically, explore hyperparameters",
            "Any setting from the command line, `dvc exp run -S gan.lr=2e-4`, queued if there are many; all runs are "
            f"measured alike, with floors, ceilings and spreads. Comparisons: {compared}"
            + (", trained again with other seeds and tested (Welch)." if repeated else "."),
        ],
        [
            "More complex GAN architectures",
            f"Not yet: the GANs are the presentation's and the DCGAN ({', '.join(nets) or 'none in this lane'}); "
            "a new one is one file in genlib/nets.",
        ],
        [
            "Higher input resolution",
            f"Here {' and '.join(str(size) for size in sizes)} pixels a side; the DCGAN can be built for 128. "
            "Nothing larger yet.",
        ],
        ["Images of any size from a latent vector (CPPN)", "Not yet."],
    ]
    return Slide(
        "future-work",
        "15",
        "Future work",
        "What was left to do, and what exists now",
        [Column([Table(["The presentation asks for", "What there is"], rows, numbers=False)])],
    )


def _checked(kind: type[_Kind], path: Path, run: Run) -> _Kind:
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "top level"
        raise GenlibError(
            f"{path}: {key}: {first['msg']}; delete the file and run dvc repro sample@{run.name}"
        ) from error
