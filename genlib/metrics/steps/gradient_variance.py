"""Why the reparameterization trick: the variance of the gradient that trains a VAE's encoder, with it and without.

The encoder's parameters p shape the distribution q(z|x) that codes are drawn from, and the gradient of the expected
generation loss E_q[f(z)] with respect to them can be estimated from draws in two ways (S draws, same noise for both):

- pathwise: z = mean + std * noise, so f(z) is a function of p; its gradient runs through the decoder into the encoder
  (Kingma & Welling 2013, sec. 2.4; Rezende, Mohamed & Wierstra 2014, sec. 3);
- score function: E[f(z) * grad log q(z|x)] with z held constant (Williams 1992, REINFORCE), which needs only values of
  f, no gradient of the decoder. A baseline that does not depend on the same noise may be taken off f: here the mean f
  of the batch's other images (leave-one-out).

All are unbiased: they differ only in their variance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genlib.errors import GenlibError


@dataclass(frozen=True, eq=False)
class GradientEstimate:
    """What one estimator gave over draws of the noise, the images held fixed.

    mean, variance: P float64 on the CPU, over draws (unbiased), for each of the P coordinates of the parameters.
    """

    mean: Tensor
    variance: Tensor
    draws: int

    @property
    def total_variance(self) -> float:
        """Trace of the covariance of one draw's gradient: the sum over coordinates of their variances."""
        return float(self.variance.sum())

    @property
    def mean_variance(self) -> float:
        """Variance of a coordinate, mean over coordinates: total_variance / P."""
        return float(self.variance.mean())

    @property
    def squared_norm(self) -> float:
        """Squared norm of the mean gradient. Biased upwards by total_variance / draws, the noise left in the mean."""
        return float(self.mean.square().sum())

    @property
    def ratio(self) -> float | None:
        """Noise to signal: total_variance / squared_norm; None where the mean gradient is exactly 0 (a dead decoder).

        Because squared_norm is biased, a gradient that is all noise shows about `draws`, not infinity.
        """
        return self.total_variance / self.squared_norm if self.squared_norm > 0 else None


@dataclass(frozen=True, eq=False)
class GradientVariance:
    """The estimators, measured on the same images and the same noise."""

    pathwise: GradientEstimate
    score_function: GradientEstimate
    score_function_with_baseline: GradientEstimate


def gradient_variance(
    encode: Callable[[Tensor], tuple[Tensor, Tensor]],
    decode: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    images: Tensor,
    draws: int,
    rng: torch.Generator,
) -> GradientVariance:
    """Measure each estimator of the gradient of the expected generation loss with respect to `parameters`.

    encode: images B C H W in [0, 1] -> mean B Z, log-variance B Z of a diagonal Gaussian; called once, so it must be
    deterministic. decode: codes B Z -> images B C H W in [0, 1]; each image from its own code only (no batch norm in
    training mode). parameters: the encoder's tensors, P coordinates in all. images: B C H W float32, B >= 2.
    draws: S >= 2 draws of the noise for the whole batch. rng: the noise's generator, on any device.

    Generation loss: squared error summed over C H W, averaged over the batch; the latent loss has a closed form, so it
    adds no noise and is left out. No `.grad` is touched. Time: S times a decoder's and three encoder's backward passes.
    Raises GenlibError for fewer than 2 images or draws, no parameters, shapes that disagree, and gradients that are not
    finite.
    """
    _check_request(parameters, images, draws)
    mean, log_variance = encode(images)
    if mean.ndim != 2 or len(mean) != len(images) or mean.shape != log_variance.shape:
        raise GenlibError(
            f"encode: mean {tuple(mean.shape)} and log-variance {tuple(log_variance.shape)} for {len(images)} images; "
            f"both must be B x Z"
        )
    moments = [_Moments(), _Moments(), _Moments()]
    for _ in range(draws):
        noise = torch.randn(mean.shape, generator=rng, device=rng.device, dtype=mean.dtype).to(mean.device)
        losses = _surrogate_losses(mean, log_variance, noise, decode, images)
        for estimator, loss in zip(moments, losses, strict=True):
            estimator.add(_flat_gradient(loss, parameters))
    pathwise, score_function, with_baseline = (estimator.estimate() for estimator in moments)
    return GradientVariance(pathwise, score_function, with_baseline)


def _surrogate_losses(
    mean: Tensor, log_variance: Tensor, noise: Tensor, decode: Callable[[Tensor], Tensor], images: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scalars whose gradients are the three estimates for one draw of the noise (B Z)."""
    codes = mean + torch.exp(log_variance / 2) * noise
    decoded = decode(codes)
    if decoded.shape != images.shape:
        raise GenlibError(f"decode: shape {tuple(decoded.shape)} for images of {tuple(images.shape)}; they must agree")
    errors = (decoded - images).square().flatten(1).sum(1)  # B
    values = errors.detach()
    baseline = (values.sum() - values) / (len(values) - 1)
    log_density = _log_density(codes.detach(), mean, log_variance)
    return errors.mean(), (values * log_density).mean(), ((values - baseline) * log_density).mean()


def _log_density(codes: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log q(z|x) of a diagonal Gaussian, per image (B), without the constant, which has no gradient."""
    return -0.5 * (log_variance + (codes - mean).square() * torch.exp(-log_variance)).sum(1)


def _flat_gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Gradient of `loss` as one vector: P float64 on the CPU. The encoder's graph is kept for the next draw."""
    gradients = torch.autograd.grad(loss, list(parameters), retain_graph=True)
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).cpu().double()
    if not bool(torch.isfinite(flat).all()):
        raise GenlibError("gradient: NaN or infinite; check the model's weights and the range of its log-variance")
    return flat


class _Moments:
    """Mean and variance of a stream of vectors (Welford 1962): stable, and holds two vectors, not all of them."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())  # sum of squared deviations from the mean

    def add(self, vector: Tensor) -> None:
        self.count += 1
        deviation = vector - self.mean
        self.mean = self.mean + deviation / self.count
        self.squares = self.squares + deviation * (vector - self.mean)

    def estimate(self) -> GradientEstimate:
        return GradientEstimate(self.mean, self.squares / (self.count - 1), self.count)


def _check_request(parameters: Sequence[Tensor], images: Tensor, draws: int) -> None:
    if draws < 2:
        raise GenlibError(f"draws: {draws}; a variance needs at least 2")
    if images.ndim != 4 or len(images) < 2:
        raise GenlibError(
            f"images: shape {tuple(images.shape)}; pass B x C x H x W with B >= 2 (the baseline of an image comes "
            f"from the others)"
        )
    if not parameters or not all(parameter.requires_grad for parameter in parameters):
        raise GenlibError("parameters: none, or some without requires_grad; pass the encoder's trainable tensors")
