"""Bounds on a VAE's log-likelihood by importance sampling (Burda et al. 2016): the ELBO is the one with one sample."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from genlib.errors import GenlibError

_CHUNK_VALUES = 1 << 21  # 8 MiB of float32 pixels at a time


class LikelihoodModel(Protocol):
    """What a model has to offer, as `genlib.objectives.vae` and `bernoulli_vae` do; the prior is N(0, I)."""

    def posterior(self, networks: Mapping[str, nn.Module], images: Tensor) -> tuple[Tensor, Tensor]:
        """Images B C H W to mean and log-variance of the Gaussian q(z|x), B Z each."""

    def log_likelihood(self, networks: Mapping[str, nn.Module], images: Tensor, codes: Tensor, settings: Any) -> Tensor:
        """log p(x|z) in nats, constants included: images B C H W and codes B Z to B."""


def importance_bound(log_weights: Tensor) -> Tensor:
    """log of the mean of K importance weights: K B to B, in nats.

    Its expectation is at most log p(x), rises with K and reaches log p(x) in the limit (Burda et al. 2016, eq. 8 and
    theorem 1). The mean over K of the log-weights themselves is the ELBO, K draws of it. Raises GenlibError for other
    shapes and for weights that are NaN.
    """
    if log_weights.ndim != 2 or len(log_weights) < 1:
        raise GenlibError(f"log_weights: shape {tuple(log_weights.shape)}; pass K x B with K at least 1")
    if bool(log_weights.isnan().any()):
        raise GenlibError("log_weights: NaN; check the model's weights and the range of its log-variance")
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


@torch.no_grad()
def log_weights(
    model: LikelihoodModel,
    networks: Mapping[str, nn.Module],
    images: Tensor,
    samples: int,
    rng: torch.Generator,
    settings: Any,
    chunk_values: int = _CHUNK_VALUES,
) -> Tensor:
    """log p(x|z) + log p(z) - log q(z|x) for codes z drawn from q(z|x): samples x B float64, in nats.

    Args:
        model: says what q(z|x) and p(x|z) are.
        networks: in evaluation mode, on the images' device.
        images: B C H W as the model observes them, B at least 1.
        samples: codes drawn for each image, K.
        rng: of the codes, on any device; images take from it in their order, so that a set may be passed in batches.
        settings: the model's.
        chunk_values: pixels decoded at a time; changes the result by rounding only.

    Raises:
        GenlibError: no images, or fewer than 1 sample.
    """
    if images.ndim != 4 or len(images) < 1:
        raise GenlibError(f"images: shape {tuple(images.shape)}; pass B x C x H x W with B at least 1")
    if samples < 1:
        raise GenlibError(f"samples: {samples} codes for each image asked for; ask for at least 1")
    rows = max(1, chunk_values // images[0].numel())
    batches = images.split(max(1, rows // samples))
    return torch.cat([_of_batch(model, networks, batch, samples, rng, settings, rows) for batch in batches], 1)


def _of_batch(
    model: LikelihoodModel,
    networks: Mapping[str, nn.Module],
    images: Tensor,
    samples: int,
    rng: torch.Generator,
    settings: Any,
    rows: int,
) -> Tensor:
    """Log-weights of few images, K B; no more than `rows` codes are decoded at a time."""
    mean, log_variance = (part.double() for part in model.posterior(networks, images))
    # Image by image: how many numbers a call asks for changes what a generator gives.
    drawn = [torch.randn(samples, mean.shape[1], generator=rng, device=rng.device) for _ in images]
    noise = torch.stack(drawn, 1).to(mean)  # K B Z
    codes = mean + (0.5 * log_variance).exp() * noise
    # log N(z; 0, I) - log N(z; mean, variance): the constants cancel.
    ratio = 0.5 * (noise.square() + log_variance - codes.square()).sum(2)
    flat = codes.flatten(0, 1).to(images.dtype)
    owners = torch.arange(len(images), device=images.device).repeat(samples)
    pairs = zip(owners.split(rows), flat.split(rows), strict=True)
    likelihoods = [model.log_likelihood(networks, images[owner], part, settings).double() for owner, part in pairs]
    return torch.cat(likelihoods).reshape(samples, len(images)) + ratio
