"""Every picture of a trained model, by what the model can do: draw, encode, denoise, animate its training.

They go into two folders: `figures` for what may be published (generated images, curves, codes), `real` for every
picture in which images of the dataset, or what became of them, appear.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from genlib import objectives, rng
from genlib.data.arrays import Images, Labels, Split
from genlib.data.batches import to_float
from genlib.errors import GenlibError
from genlib.figures import animation, curves, grids, latent, moments
from genlib.figures.neighbours import nearest, neighbours
from genlib.files import read_json, write_json
from genlib.metrics.steps.alternation import alternating, half_steps
from genlib.metrics.steps.gradient_variance import gradient_variance
from genlib.models import Model
from genlib.settings import SampleSettings

_COLUMNS = 8
_STEPS = 10
_NEIGHBOURS_OF = 8
_CHANGED = 4
_STRENGTHS = np.linspace(-2, 2, 7)
_MEAN_OF = 20_000
_BATCH = 250
_LARGE = 48
_ALTERNATIONS = 3
_GRADIENTS = {
    "reparameterized": "pathwise",
    "score function": "score_function",
    "score function, baseline": "score_function_with_baseline",
}


@dataclass(frozen=True)
class Data:
    """A dataset as pictures need it: its card, its training split, and the validation split (test is evaluate's)."""

    card: Mapping[str, Any]
    train: Split
    heldout: Split


def draw(
    model: Model,
    samples: Images,
    log: Path,
    data: Data,
    attributes: Mapping[str, int],
    settings: SampleSettings,
    figures: Path,
    real: Path,
) -> None:
    """Write the pictures of a model to two existing folders.

    Args:
        model: trained.
        samples: its samples, uint8 N C H W.
        log: what the train stage left: settings.json, history.csv, steps.csv, progress.safetensors.
        data: what it was trained on.
        attributes: those whose directions are drawn, as `attribute_columns` gives them.
        settings: how much to draw.
        figures: for pictures without images of the dataset.
        real: for the others; data.png is always there.

    Raises:
        GenlibError: the log is missing, or of a training with other settings than the model's.
    """
    _check_log(log, model)
    objective = model.objective
    encodes = hasattr(objective, "encode")
    progress = _progress(log / "progress.safetensors")
    _save(data.train.images[: settings.grid], _COLUMNS if _large(model) else 2 * _COLUMNS, real / "data.png")
    _save(samples[: settings.grid], _COLUMNS, figures / "samples.png")
    # Those of the samples: fewer, drawn by themselves, need not be the first ones of more.
    codes = rng.latents(len(samples), model.settings.latent_dim, model.seed, "samples")[: settings.grid]
    if model.averaged is not None:
        _save(model.decode(codes, averaged=False).numpy(), _COLUMNS, figures / "samples_last.png")
    if model.best_epoch not in (None, model.settings.epochs):
        _save(model.decode(codes, checkpoint="best").numpy(), _COLUMNS, figures / "samples_best.png")
    _neighbours(model, samples, data.train.images, settings, real / "neighbours.png")
    curves.loss_curves(log / "steps.csv", log / "history.csv", figures / "curves.png")
    _learning(model, progress, figures if objectives.draws_from_prior(model.objective) else real)
    if encodes:
        _of_images(model, model.observed(np.array(data.heldout.images)), settings, real)
        _attributes(model, data, attributes, figures, real)
    else:
        half = settings.interpolations
        ends = rng.latents(2 * half, model.settings.latent_dim, model.seed, "interpolations")
        _interpolations(model, ends[:half], ends[half:], figures / "interpolations.png")
    if encodes and model.settings.latent_dim == 2:
        _two_dimensions(model, progress, data, attributes, settings, figures)
    if hasattr(objective, "posterior") and not hasattr(objective, "observe"):  # it is measured on the squared error
        _gradients(model, data.heldout, settings, figures)
    if alternating(objective):
        _alternation(model, data.train.images, figures)


def attribute_columns(data: Data, names: Sequence[str]) -> dict[str, int]:
    """The columns of the labels that `names` stand for; none where the dataset's labels are not attributes.

    Raises:
        GenlibError: the dataset lacks an attribute, or all or none of its training images have it.
    """
    if data.card["labels"] != "attributes":
        return {}
    known: list[str] = data.card["classes"]
    dataset = data.card["dataset"]
    for name in names:
        if name not in known:
            raise GenlibError(
                f"params.yaml: sample.attributes: {name!r} is no attribute of {dataset}; the dataset has "
                + ", ".join(known)
            )
        have = int(data.train.labels[:, known.index(name)].sum())
        if have in (0, len(data.train.labels)):
            raise GenlibError(
                f"params.yaml: sample.attributes: {name!r}: {have:,} of {len(data.train.labels):,} training images of "
                f"{dataset} have it, so that it has no direction; leave it out"
            )
    return {name: known.index(name) for name in names}


def attribute_direction(model: Model, images: Images, labels: NDArray[np.int64]) -> Tensor:
    """From the mean code of images without an attribute to the mean code of those with it, float32 Z.

    Args:
        model: one that encodes.
        images: training images, uint8 N C H W; the first 20,000 of either kind are taken.
        labels: 0 or 1, N; both occur.
    """

    def mean_code(value: int) -> Tensor:
        chosen = np.flatnonzero(labels == value)[:_MEAN_OF]
        batches = (chosen[start : start + _BATCH] for start in range(0, len(chosen), _BATCH))
        total = sum(model.encode(images[batch]).double().sum(0) for batch in batches)
        return torch.as_tensor(total) / len(chosen)

    return (mean_code(1) - mean_code(0)).float()


def _check_log(log: Path, model: Model) -> None:
    """GenlibError where a log is of another training: its curves would stand beside pictures of this model."""
    logged, own = read_json(log / "settings.json"), {"seed": model.seed, **model.settings.model_dump(mode="json")}
    if not isinstance(logged, dict):
        raise GenlibError(f"{log / 'settings.json'}: holds {type(logged).__name__}, not a mapping; train it again")
    for key, value in logged.items():
        if key not in own or own[key] != value:
            raise GenlibError(
                f"{log}: is not the log of {model.run}, whose model is drawn: {key} is {value!r} in its settings.json, "
                f"{own.get(key)!r} in the model; give --log of the same training"
            )


def _save(images: Images, columns: int, path: Path) -> None:
    grids.save_png(grids.grid(images, columns, grids.fitting_scale(images.shape[-1], columns)), path)


def _large(model: Model) -> bool:
    return model.shape[2] >= _LARGE


def _neighbours(model: Model, samples: Images, train: Images, settings: SampleSettings, path: Path) -> None:
    shown = samples[:_NEIGHBOURS_OF]
    found = nearest(shown, train, min(settings.neighbours, len(train)), mirror=model.settings.flip)
    grids.save_png(neighbours(shown, train, found), path)


def _learning(model: Model, progress: dict[str, Tensor], out: Path) -> None:
    """Training as it went: an animation, and four points of it."""
    frames, seen = progress["samples"].numpy(), progress["images_seen"].tolist()
    grids.save_png(moments.training_points(frames, seen), out / "training_points.png")
    if _large(model):  # fewer and unmagnified: animations in colour compress badly
        frames = frames[:, : animation.LARGE_IMAGES]
    side = max(1, round(frames.shape[1] ** 0.5))
    animation.progress_gif(frames, seen, out / "progress.gif", columns=side, scale=1 if _large(model) else 2)


def _of_images(model: Model, heldout: Images, settings: SampleSettings, real: Path) -> None:
    """What becomes of held-out images."""
    shown = min(2, len(heldout) // _COLUMNS) * _COLUMNS or len(heldout)
    columns = min(_COLUMNS, shown)
    images = np.array(heldout[:shown])
    pairs = min(settings.interpolations, len(heldout) // 2)
    if pairs > 0:
        ends = model.encode(np.array(heldout[: 2 * pairs]))
        _interpolations(model, ends[:pairs], ends[pairs:], real / "interpolations.png")
    scale = grids.fitting_scale(images.shape[-1], columns)
    if getattr(model.settings, "noise", 0.0) > 0:
        noisy = model.corrupted(images)
        kinds = [("noisy", noisy), ("restored", model.reconstruct(noisy)), ("clean", images)]
        grids.save_png(grids.interleaved(kinds, columns, scale), real / "denoising.png")
    else:
        picture = grids.pairs(images, model.reconstruct(images), columns, scale=scale)
        grids.save_png(picture, real / "reconstructions.png")


def _interpolations(model: Model, start: Tensor, end: Tensor, path: Path) -> None:
    """A row for each pair: decoded from codes on the straight line between two."""
    weights = torch.linspace(0, 1, _STEPS)[None, :, None]
    codes = torch.lerp(start[:, None], end[:, None], weights).flatten(0, 1)
    _save(model.decode(codes).numpy(), _STEPS, path)


def _attributes(model: Model, data: Data, attributes: Mapping[str, int], figures: Path, real: Path) -> None:
    """Codes moved along the directions of attributes: of held-out images, and drawn ones where there is a prior."""
    if not attributes:
        return
    directions = {
        name: attribute_direction(model, data.train.images, data.train.labels[:, column])
        for name, column in attributes.items()
    }
    codes = model.encode(np.array(data.heldout.images[:_CHANGED]))
    _along(model, codes, directions, real / "attributes.png")
    if objectives.draws_from_prior(model.objective):
        drawn = rng.latents(_CHANGED, model.settings.latent_dim, model.seed, "attributes")
        _along(model, drawn, directions, figures / "attributes_samples.png")


def _along(model: Model, codes: Tensor, directions: Mapping[str, Tensor], path: Path) -> None:
    """A row for each direction and code: the code moved by each strength times the direction, decoded."""
    strengths = torch.from_numpy(_STRENGTHS).float()[:, None]
    labelled = [
        (name, model.decode(code + strengths * direction).numpy())
        for name, direction in directions.items()
        for code in codes
    ]
    headings = [f"{strength:+.1f}" if strength else "0" for strength in _STRENGTHS]
    scale = grids.fitting_scale(model.shape[2], len(headings))
    grids.save_png(grids.rows(labelled, scale, headings=headings), path)


def _two_dimensions(
    model: Model,
    progress: dict[str, Tensor],
    data: Data,
    attributes: Mapping[str, int],
    settings: SampleSettings,
    figures: Path,
) -> None:
    codes, seen = progress["codes"].numpy(), progress["images_seen"].tolist()
    labels, names = _colours(data, attributes)
    labels = labels[: codes.shape[1]]
    latent.codes_figure(codes[-1], labels, names, figures / "codes.png")
    latent.codes_gif(codes, labels, names, seen, figures / "codes.gif")
    square = model.decode(torch.from_numpy(latent.manifold_codes(settings.manifold))).numpy()
    grids.save_png(latent.manifold(square, settings.manifold), figures / "manifold.png")


def _colours(data: Data, attributes: Mapping[str, int]) -> tuple[Labels, list[str]]:
    """What tells held-out codes apart by colour: classes, or the first attribute; nothing where labels are people."""
    labels = np.array(data.heldout.labels)
    if data.card["labels"] == "classes":
        return labels, data.card["classes"]
    for name, column in attributes.items():
        return labels[:, column], [f"not {name}", name]
    return np.zeros(len(labels), np.int64), ["held-out images"]


def _gradients(model: Model, heldout: Split, settings: SampleSettings, out: Path) -> None:
    """Measure what the reparameterization trick is for, on the encoder of the trained model."""
    objective: Any = model.objective
    images = to_float(torch.from_numpy(np.array(heldout.images[: settings.gradient_images]))).to(model.device)
    measured = gradient_variance(
        lambda batch: objective.posterior(model.networks, batch),
        model.networks["decoder"],
        list(model.networks["encoder"].parameters()),
        images,
        settings.gradient_draws,
        rng.generator(model.seed, "gradient variance"),
    )
    totals = {label: getattr(measured, name).total_variance for label, name in _GRADIENTS.items()}
    curves.gradient_variance_figure(totals, out / "gradient_variance.png")
    write_json(
        out / "gradient_variance.json",
        {"draws": settings.gradient_draws, "images": len(images), "total_variance": totals},
    )


def _alternation(model: Model, images: Images, out: Path) -> None:
    """Measure which weights each half of a training step moves."""
    batches = np.array(images[: _ALTERNATIONS * model.settings.batch_size])
    moves = [{"moves": half.moves, "changes": half.changes} for half in half_steps(model, batches, _ALTERNATIONS)]
    write_json(out / "alternation.json", {"batch_size": model.settings.batch_size, "half_steps": moves})


def _progress(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
