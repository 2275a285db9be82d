"""What a trained model is worth, in numbers: its samples in the measuring network's features, its reconstructions."""

from typing import Any

import numpy as np
import torch

from genlib import rng
from genlib.data.arrays import Images, Split
from genlib.data.batches import in_order
from genlib.errors import GenlibError
from genlib.features import MeasuringNetwork, accuracy
from genlib.gallery import corrupted, reconstruct
from genlib.metrics import classes
from genlib.metrics.frechet import frechet_distance, statistics
from genlib.metrics.pca import fit_pca
from genlib.metrics.reconstruction import image_mse, mean_psnr
from genlib.models import Model

_BATCH = 500
_DIGITS = 6

Numbers = dict[str, float]


def of_samples(
    samples: Images, train: Split, test: Split, network: MeasuringNetwork, covered_share: float
) -> tuple[Numbers, dict[str, Any]]:
    """Judge samples (uint8 N C H W) against the test split; the headline numbers, and all that belongs to them.

    FID (Heusel et al. 2017) is between the samples and the test split, in the features of the dataset's own measuring
    network: not comparable with FIDs in Inception features. Its floor is that of as many real training images as the
    test split has. Lower is better; the floor is what real images get.
    """
    if samples.shape[1:] != test.images.shape[1:]:
        raise GenlibError(
            f"samples: shape {samples.shape[1:]}, the dataset's are {test.images.shape[1:]}; run dvc repro"
        )
    count = min(len(test.images), len(train.images))
    reference = statistics(network.measure(test.images)[0])
    floor = statistics(network.measure(train.images[:count])[0])
    features, probabilities = network.measure(samples)
    shares = classes.class_shares(probabilities.argmax(1), len(network.classes))
    numbers = {
        "fid": frechet_distance(statistics(features), reference),
        "fid_floor": frechet_distance(floor, reference),
        "classes_covered": classes.covered(shares, covered_share),
        "min_class_share": float(shares.min()),
        "class_entropy": classes.entropy_nats(shares),
        "confidence": classes.mean_confidence(probabilities),
    }
    details = {
        "class_shares": dict(zip(network.classes, shares.round(_DIGITS).tolist(), strict=True)),
        "class_kl_to_uniform": round(classes.kl_to_uniform(shares), _DIGITS),
        "measured_with": {
            "features": f"classifier trained on {network.dataset}",
            "sha256": network.sha256,
            "dimensions": int(features.shape[1]),
            "classifier_test_accuracy": round(accuracy(network, test), _DIGITS),
            "samples": len(samples),
            "reference": f"test split, {len(test.images):,} images",
            "floor": f"the first {count:,} training images against the test split",
        },
    }
    return _rounded(numbers), details


def of_reconstructions(model: Model, train: Split, test: Split) -> Numbers:
    """Judge a model that encodes, on the test split; empty for one that does not.

    Mean squared errors are per pixel in 0..1. A VAE reconstructs from the mean of its code. `pca_mse` is that of the
    principal components of the training split, as many as the code has numbers. A denoising autoencoder is judged by
    what it restores: PSNR in dB before and after.
    """
    if not hasattr(model.objective, "encode"):
        return {}
    images = np.array(test.images)
    if getattr(model.settings, "noise", 0.0) > 0:
        noisy = corrupted(model, images)
        before, after = _errors(images, noisy), _errors(images, reconstruct(model, noisy))
        return _rounded(
            {"noisy_psnr": mean_psnr(before), "restored_psnr": mean_psnr(after), "restored_mse": after.mean()}
        )
    errors = _errors(images, reconstruct(model, images))
    components = model.settings.latent_dim
    pca = fit_pca(train.images, components)
    pca_errors = [
        image_mse(batch, pca.reconstruct(batch, components))
        for batch in np.array_split(images, -(-len(images) // _BATCH))
    ]
    numbers = {
        "recon_mse": float(errors.mean()),
        "recon_psnr": mean_psnr(errors),
        "pca_mse": float(np.concatenate(pca_errors).mean()),
    }
    return _rounded(numbers | _bound(model, images))


@torch.no_grad()
def _bound(model: Model, images: Images) -> Numbers:
    """KL and ELBO of a VAE in nats, means over images, one posterior draw for each."""
    objective: Any = model.objective
    if not hasattr(objective, "elbo"):
        return {}
    noise = rng.generator(model.seed, "evaluation codes", device=model.device)
    bounds, latents = [], []
    for batch in in_order(torch.from_numpy(images).to(model.device), _BATCH):
        losses = objective.heldout_losses(model.networks, batch, noise, model.settings)
        beta = model.settings.beta  # type: ignore[attr-defined]
        bounds.append(objective.elbo(losses["generation"], losses["latent"], images[0].size, beta).double().cpu())
        latents.append(losses["latent"].double().cpu())
    return {"kl": float(torch.cat(latents).mean()), "elbo": float(torch.cat(bounds).mean())}


def _errors(originals: Images, others: Images) -> Any:
    pieces = -(-len(originals) // _BATCH)
    pairs = zip(np.array_split(originals, pieces), np.array_split(others, pieces), strict=True)
    return np.concatenate([image_mse(original, other) for original, other in pairs])


def _rounded(numbers: Numbers) -> Numbers:
    return {name: value if isinstance(value, int) else round(float(value), _DIGITS) for name, value in numbers.items()}
