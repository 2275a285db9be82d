"""Every picture of a trained model, by what the model can do: draw, encode, denoise, animate its training."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from genlib import rng
from genlib.data.arrays import Images, Labels, Split
from genlib.data.batches import to_float, to_uint8
from genlib.figures import animation, curves, grids, latent
from genlib.files import write_json
from genlib.metrics.gradient_variance import gradient_variance
from genlib.models import Model
from genlib.settings import SampleSettings

_COLUMNS = 8
_STEPS = 10
_GRADIENTS = {
    "reparameterized": "pathwise",
    "score function": "score_function",
    "score function, baseline": "score_function_with_baseline",
}


def draw(
    model: Model,
    samples: Images,
    log: Path,
    train: Split,
    heldout: Split,
    classes: list[str],
    settings: SampleSettings,
    out: Path,
) -> None:
    """Write the figures of a model to the folder `out`.

    Args:
        model: trained.
        samples: its samples, uint8 N C H W.
        log: what the train stage left: history.csv, steps.csv, progress.safetensors.
        train: the training split, of which the first images are shown.
        heldout: the validation split; the test split is evaluate's.
        classes: names of the labels.
        settings: how much to draw.
        out: an existing folder.
    """
    grids.save_png(grids.grid(train.images[: settings.grid], 2 * _COLUMNS), out / "data.png")
    grids.save_png(grids.grid(samples[: settings.grid], _COLUMNS), out / "samples.png")
    if model.averaged is not None:
        last = model.sample(settings.grid, model.seed, averaged=False).numpy()
        grids.save_png(grids.grid(last, _COLUMNS), out / "samples_last.png")
    curves.loss_curves(log / "steps.csv", log / "history.csv", out / "curves.png")
    progress = _progress(log / "progress.safetensors")
    seen = progress["images_seen"].tolist()
    side = max(1, round(progress["samples"].shape[1] ** 0.5))
    animation.progress_gif(progress["samples"].numpy(), seen, out / "progress.gif", columns=side)

    if not hasattr(model.objective, "encode"):
        ends = rng.latents(2 * settings.interpolations, model.settings.latent_dim, model.seed, "interpolations")
        half = settings.interpolations
        grids.save_png(_interpolations(model, ends[:half], ends[half:]), out / "interpolations.png")
        return

    shown = min(2, len(heldout.images) // _COLUMNS) * _COLUMNS or len(heldout.images)
    images = np.array(heldout.images[:shown])
    pairs = min(settings.interpolations, len(heldout.images) // 2)
    ends = _encode(model, np.array(heldout.images[: 2 * pairs]))
    if pairs > 0:
        grids.save_png(_interpolations(model, ends[:pairs], ends[pairs:]), out / "interpolations.png")
    noise = getattr(model.settings, "noise", 0.0)
    if noise > 0:
        noisy = corrupted(model, images)
        restored = model.decode(_encode(model, noisy)).numpy()
        kinds = [("noisy", noisy), ("restored", restored), ("clean", images)]
        grids.save_png(grids.interleaved(kinds, min(_COLUMNS, shown)), out / "denoising.png")
    else:
        grids.save_png(
            grids.pairs(images, reconstruct(model, images), min(_COLUMNS, shown)), out / "reconstructions.png"
        )
    if model.settings.latent_dim == 2:
        _two_dimensions(model, progress, seen, heldout, classes, settings, out)
    if hasattr(model.objective, "posterior"):
        _gradients(model, heldout, settings, out)


def reconstruct(model: Model, images: Images) -> Images:
    """Images encoded (a VAE: to the mean of its code) and decoded again, uint8 N C H W."""
    return model.decode(_encode(model, images)).numpy()


@torch.no_grad()
def corrupted(model: Model, images: Images) -> Images:
    """Images with the noise that a denoising autoencoder was trained to remove, uint8 N C H W."""
    objective: Any = model.objective
    noise = rng.generator(model.seed, "evaluation noise")
    return to_uint8(objective.corrupt(to_float(torch.from_numpy(images)), noise, model.settings.noise)).numpy()  # type: ignore[attr-defined]


@torch.no_grad()
def _encode(model: Model, images: Images) -> Tensor:
    objective: Any = model.objective
    batches = torch.split(torch.from_numpy(images), 250)
    return torch.cat([objective.encode(model.networks, to_float(batch.to(model.device))).cpu() for batch in batches])


def _interpolations(model: Model, start: Tensor, end: Tensor) -> Any:
    """A row for each pair: decoded from codes on the straight line between two."""
    weights = torch.linspace(0, 1, _STEPS)[None, :, None]
    codes = torch.lerp(start[:, None], end[:, None], weights).flatten(0, 1)
    return grids.grid(model.decode(codes).numpy(), _STEPS)


def _two_dimensions(
    model: Model,
    progress: dict[str, Tensor],
    seen: list[int],
    heldout: Split,
    classes: list[str],
    settings: SampleSettings,
    out: Path,
) -> None:
    codes = progress["codes"].numpy()
    labels: Labels = np.array(heldout.labels[: codes.shape[1]])
    latent.codes_figure(codes[-1], labels, classes, out / "codes.png")
    latent.codes_gif(codes, labels, classes, seen, out / "codes.gif")
    square = model.decode(torch.from_numpy(latent.manifold_codes(settings.manifold))).numpy()
    grids.save_png(latent.manifold(square, settings.manifold), out / "manifold.png")


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


def _progress(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
