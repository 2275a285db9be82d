"""Slides 1 to 8 of the presentation: what the models are and how they learn, each shown by a run of the lane."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from genlib.errors import GenlibError
from genlib.files import read_json
from genlib.presentation import catalogue, tables, text
from genlib.presentation.deck import decoder
from genlib.presentation.deck.blocks import Bars, Block, Column, Explorer, Facts, Formula, Missing, Moves, Points, Slide
from genlib.presentation.deck.lane import (
    Lane,
    Run,
    codes_film,
    game,
    losses,
    missing_run,
    progress_film,
    provenance,
    still,
)
from genlib.presentation.deck.media import read_progress

_Kind = TypeVar("_Kind", bound=BaseModel)


def autoencoder(lane: Lane, run: Run) -> Slide:
    """Slide 1: what its code is good for."""
    encoding, card = run.results.evaluation.encoding, run.card
    values = card.channels * card.image_size**2
    facts = [(f"{run.settings.latent_dim}", f"numbers in place of {values:,}")]
    if {"recon_mse", "pca_mse"} <= encoding.keys() and min(encoding["recon_mse"], encoding["pca_mse"]) > 0:
        ratio = encoding["pca_mse"] / encoding["recon_mse"]
        size = "smaller" if ratio >= 1 else "larger"
        facts.append((f"{max(ratio, 1 / ratio):.1f}\u00d7", f"{size} squared error than PCA's with as many numbers"))
    plain = not _noise(run)
    left: list[Block] = [still(run, "reconstructions.png" if plain else "denoising.png"), Facts(facts)]
    denoising = lane.first("ae", where=_noise)
    right: list[Block]
    if denoising is None:
        what = "Denoising: no autoencoder of this lane was trained with noise"
        right = [missing_run(what, run, f"{card.dataset}-dae", "noise: 0.5", lane.name)]
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


def vae(lane: Lane, run: Run) -> Iterator[Slide]:
    """Slides 2 to 4: codes that can be drawn, the latent space, both losses and the trick."""
    plain = lane.first("ae", run.settings.dataset, lambda one: not _noise(one))
    beside: list[Column] = []
    if plain is None:
        what = "No autoencoder on the same data to compare with"
        beside.append(Column([missing_run(what, run, f"{run.card.dataset}-ae", "model: ae", lane.name)]))
    else:
        caption = f"Autoencoder: random codes decode to nothing much. {tables.distance(plain.results)}"
        beside.append(Column([still(plain, "samples.png", caption)]))
    caption = f"VAE: random codes decode to images. {tables.distance(run.results)}"
    leading = catalogue.METRICS[run.results.evaluation.card.leading]
    yield Slide(
        "vae",
        "2",
        "Variational autoencoder",
        "A VAE can be sampled: its codes fill a Gaussian",
        [*beside, Column([still(run, "samples.png", caption)])],
        "The encoder gives a Gaussian instead of a point (Kingma & Welling 2013). "
        f"Codes drawn at random from N(0, I), decoded ({leading.label}: distance to real images, {leading.better} is "
        "better):",
        provenance=provenance([plain, run]),
    )
    yield from _latent_space(lane, run)
    yield Slide(
        "two-losses",
        "4",
        "VAE learning",
        "A VAE minimises the sum of two losses",
        [
            Column([losses(run, "generation", "generation loss: squared error per image", log=True)]),
            Column([losses(run, "latent", "latent loss: KL to N(0, I), nats per image")]),
        ],
        "Images must come back, and codes must look like the unit Gaussian. The latent loss rises where it pays that "
        "codes say more about their images.",
        "Point at a curve to read its values.",
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
                3,
            ),
            Column([_gradient_variance(run)], 4),
        ],
        provenance=provenance([run]),
    )


def _latent_space(lane: Lane, vae: Run) -> Iterator[Slide]:
    run = lane.first("vae", where=lambda one: one.settings.latent_dim == 2)
    topic = "Latent space learned by a VAE"
    if run is None:
        what = "No VAE of this lane has a code of two numbers, which a plane can show"
        absent = missing_run(what, vae, f"{vae.card.dataset}-vae-2d", "latent_dim: 2", lane.name)
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
            hint="Point at the map, drag, or use the arrow keys: the trained decoder runs in this page.",
            provenance=provenance([run]),
        )
    caption = "Left and right: two held-out images, encoded and decoded. Between: codes in equal steps."
    yield Slide(
        "interpolations",
        "3",
        f"{topic}: between two images",
        "Between two images lie images",
        [Column([still(vae, "interpolations.png", caption)])],
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
        return Missing(f"Variance of {run.name}'s gradient: {path.name} is not there", f"`dvc repro sample@{run.name}`")
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
        return Missing(f"{run.name} cannot be explored here: {why_not}", f"`dvc repro train@{run.name}`")
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


def gan(lane: Lane) -> Iterator[Slide]:
    """Slides 5 to 8: the game, who moves when, and what either player learns from."""
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
        "Measured on copies of the trained networks, with fresh optimizers: how far the weights move in each half of a "
        "training step. The network that is held constant moves by exactly 0.",
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
        return Missing(f"Who moves when in {run.name}: {path.name} is not there", f"`dvc repro sample@{run.name}`")
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
                3,
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
                4,
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
                            "Beside it: what the same random codes became.",
                        ]
                    ),
                ],
                3,
            ),
            Column([progress_film(run, f"{run.name}: the same random codes")], 4),
        ],
        hint="Move the slider to go through the training.",
        provenance=provenance([run]),
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
