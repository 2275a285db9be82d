"""What a model that encodes is worth on the test split: reconstructions, bounds on the likelihood, codes."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genlib import rng
from genlib.data.arrays import Images
from genlib.data.batches import in_order, to_float
from genlib.metrics.bound import importance_bound, log_weights
from genlib.metrics.codes import active_units, aggregate_mismatch
from genlib.metrics.pca import fit_pca
from genlib.metrics.reconstruction import image_mse, mean_psnr
from genlib.metrics.structure import image_ssim
from genlib.models import Model
from genlib.objectives._shared import latent_loss, reparameterize
from genlib.settings import ImportanceSettings

_BATCH = 500
_STEPS = 255  # between the levels of a pixel, which are 0..255

Numbers = dict[str, float]


def of_reconstructions(model: Model, train: Images, test: Images) -> Numbers:
    """Judge images uint8 N C H W encoded and decoded again; empty for a model that does not encode.

    Squared errors are per pixel in 0..1, PSNR in dB; a VAE reconstructs from the mean of its code. `pca_mse`: of the
    principal components of `train`, as many as the code has numbers. A denoising autoencoder is judged by what it
    restores, and `noisy_...` is before that. A model of binary images is judged on binarised ones. There is no PSNR
    where an image came back exactly, since its own is infinite.
    """
    if not hasattr(model.objective, "encode"):
        return {}
    images = model.observed(np.array(test))
    if getattr(model.settings, "noise", 0.0) > 0:
        noisy = model.corrupted(images)
        restored = model.reconstruct(noisy)
        before, after = _errors(images, noisy), _errors(images, restored)
        return {
            **_psnr("noisy_psnr", before),
            "noisy_ssim": float(image_ssim(images, noisy).mean()),
            "restored_mse": float(after.mean()),
            **_psnr("restored_psnr", after),
            "restored_ssim": float(image_ssim(images, restored).mean()),
        }
    reconstructed = model.reconstruct(images)
    errors = _errors(images, reconstructed)
    components = model.settings.latent_dim
    pca = fit_pca(model.observed(np.array(train)), components)
    pca_errors = [image_mse(batch, pca.reconstruct(batch, components)) for batch in _batches(images)]
    return {
        "recon_mse": float(errors.mean()),
        **_psnr("recon_psnr", errors),
        "recon_ssim": float(image_ssim(images, reconstructed).mean()),
        "pca_mse": float(np.concatenate(pca_errors).mean()),
    }


def of_likelihood(model: Model, test: Images, importance: ImportanceSettings) -> Numbers:
    """Bounds on the log-likelihood of test images in nats, means over images; empty for a model without a likelihood.

    `elbo` and its part `kl`: of all images, one posterior draw for each. `nll`: the negative importance-weighted bound
    of `importance.images` of them with `importance.samples` draws, and `nll_elbo` the negative ELBO by the same draws,
    which is never below it; their standard errors are over images. `bits_per_dim`: of `nll`, per pixel and channel.
    """
    objective: Any = model.objective
    if not hasattr(objective, "log_likelihood"):
        return {}
    images = model.observed(np.array(test))
    noise = rng.generator(model.seed, "evaluation codes", device=model.device)
    bounds, latents = [], []
    with torch.no_grad():
        for batch in in_order(torch.from_numpy(images).to(model.device), _BATCH):
            mean, log_variance = objective.posterior(model.networks, batch)
            codes = reparameterize(mean, log_variance, noise)
            likelihood = objective.log_likelihood(model.networks, batch, codes, model.settings).double()
            latents.append(latent_loss(mean, log_variance).double().cpu())
            bounds.append(likelihood.cpu() - latents[-1])
    order = torch.randperm(len(images), generator=rng.generator(model.seed, "importance images"))
    chosen = order[: importance.images].sort().values.numpy()
    draws = rng.generator(model.seed, "importance samples")
    weights = log_weights(
        objective,
        model.networks,
        to_float(torch.from_numpy(images[chosen]).to(model.device)),
        importance.samples,
        draws,
        model.settings,
    ).cpu()
    nll, by_elbo = -importance_bound(weights), -weights.mean(0)
    return {
        "kl": float(torch.cat(latents).mean()),
        "elbo": float(torch.cat(bounds).mean()),
        "nll": float(nll.mean()),
        "nll_standard_error": float(nll.std() / math.sqrt(len(nll))),
        "nll_elbo": float(by_elbo.mean()),
        "bits_per_dim": bits_per_dim(float(nll.mean()), images[0].size, discrete=hasattr(objective, "observe")),
    }


def of_codes(model: Model, test: Images) -> Numbers:
    """How a model uses its code: `active_units` (a VAE), and `code_mismatch`, how far codes are from N(0, I), in nats.

    Empty for a model that does not encode. The mismatch is that of the Gaussian fitted to the codes: one posterior draw
    for each image, or the code itself where there is no posterior.
    """
    objective: Any = model.objective
    if not hasattr(objective, "encode"):
        return {}
    images = model.observed(np.array(test))
    if not hasattr(objective, "posterior"):
        return {"code_mismatch": aggregate_mismatch(model.encode(images).numpy())}
    noise = rng.generator(model.seed, "evaluation codes", 1)
    means, drawn = [], []
    with torch.no_grad():
        for batch in in_order(torch.from_numpy(images).to(model.device), _BATCH):
            mean, log_variance = (part.double().cpu() for part in objective.posterior(model.networks, batch))
            means.append(mean)
            drawn.append(reparameterize(mean, log_variance, noise))
    return {
        "active_units": float(active_units(torch.cat(means).numpy())),
        "code_mismatch": aggregate_mismatch(torch.cat(drawn).numpy()),
    }


def likelihood_card(model: Model, test: Images, importance: ImportanceSettings) -> dict[str, Any]:
    """What the bounds are of: to be stated beside them; empty for a model without a likelihood."""
    objective: Any = model.objective
    if not hasattr(objective, "log_likelihood"):
        return {}
    return {
        "likelihood": objective.likelihood(model.settings),
        "elbo_draws": 1,
        "importance_samples": importance.samples,
        "importance_images": min(importance.images, len(test)),
    }


def bits_per_dim(nats: float, dimensions: int, discrete: bool) -> float:
    """Negative log-likelihood of an image in nats to bits for each of its numbers.

    Levels 0..255 scaled to 0..1 are 1/255 apart, so a density of them (not `discrete`) is their probability times 255
    for each: log2(255) is added, to compare with what is published for 8-bit images (Theis et al. 2016, section 3.1).
    """
    return nats / (dimensions * math.log(2)) + (0.0 if discrete else math.log2(_STEPS))


def _errors(originals: Images, others: Images) -> NDArray[np.float64]:
    pairs = zip(_batches(originals), _batches(others), strict=True)
    return np.concatenate([image_mse(original, other) for original, other in pairs])


def _psnr(name: str, errors: NDArray[np.float64]) -> Numbers:
    return {name: mean_psnr(errors)} if errors.all() else {}


def _batches(images: Images) -> list[Images]:
    return np.array_split(images, -(-len(images) // _BATCH))
