"""Bounds on the likelihood, against a linear Gaussian model whose likelihood is known exactly."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal

from genlib import rng
from genlib.errors import GenlibError
from genlib.metrics.bound import importance_bound, log_weights
from genlib.objectives import bernoulli_vae

SHAPE = (1, 2, 3)


class Linear:
    """p(z) = N(0, I), p(x|z) = N(Wz + b, s^2 I), Z = 3, D = 6; W's columns are orthogonal, so q(z|x) is diagonal.

    `shift` and `stretch` make q(z|x) another Gaussian than the exact posterior. Notes how many codes it decodes.
    """

    deviation = 0.7

    def __init__(self, shift: float = 0.0, stretch: float = 1.0) -> None:
        basis = torch.linalg.qr(torch.randn(6, 3, generator=rng.generator(0, "w"), dtype=torch.float64)).Q
        self.matrix = basis * torch.tensor([2.0, 1.0, 0.3], dtype=torch.float64)
        self.offset = torch.randn(6, generator=rng.generator(0, "b"), dtype=torch.float64)
        self.shift, self.stretch = shift, stretch
        self.decoded: list[int] = []

    def posterior(self, networks: Mapping[str, nn.Module], images: Tensor) -> tuple[Tensor, Tensor]:
        variance = self.deviation**2
        precision = 1 + self.matrix.square().sum(0) / variance
        mean = (images.flatten(1) - self.offset) @ self.matrix / variance / precision
        return mean + self.shift, (self.stretch**2 / precision).log().expand_as(mean)

    def log_likelihood(self, networks: Mapping[str, nn.Module], images: Tensor, codes: Tensor, settings: Any) -> Tensor:
        self.decoded.append(len(codes))
        mean = codes @ self.matrix.T + self.offset
        likelihood: Tensor = Independent(Normal(mean, self.deviation), 1).log_prob(images.flatten(1))
        return likelihood

    def images(self, count: int) -> Tensor:
        noise = rng.generator(0, "x")
        codes, rest = (torch.randn(count, size, generator=noise, dtype=torch.float64) for size in (3, 6))
        images: Tensor = codes @ self.matrix.T + self.offset + self.deviation * rest
        return images.reshape(count, *SHAPE)

    def log_marginal(self, images: Tensor) -> Tensor:
        covariance = self.matrix @ self.matrix.T + self.deviation**2 * torch.eye(6, dtype=torch.float64)
        likelihood: Tensor = MultivariateNormal(self.offset, covariance).log_prob(images.flatten(1))
        return likelihood


def weights(model: Linear, images: Tensor, samples: int, **options: int) -> Tensor:
    return log_weights(model, {}, images, samples, rng.generator(0, "codes"), None, **options)


@pytest.mark.parametrize("samples", [1, 2, 50])
def test_with_the_exact_posterior_any_number_of_samples_is_exact(samples: int) -> None:
    model = Linear()
    images = model.images(5)
    found = weights(model, images, samples)
    assert found.shape == (samples, 5)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, model.log_marginal(images).expand(samples, 5), rtol=0, atol=1e-9)
    torch.testing.assert_close(importance_bound(found), model.log_marginal(images), rtol=0, atol=1e-9)


def test_with_another_posterior_the_bound_rises_to_the_likelihood() -> None:
    model = Linear(shift=0.5, stretch=1.3)
    images = model.images(300)
    gaps = [
        (model.log_marginal(images) - importance_bound(weights(model, images, samples))).mean().item()
        for samples in (1, 5, 50, 1000)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.5
    assert abs(gaps[-1]) < 0.02


def test_one_sample_is_the_elbo_on_average() -> None:
    """Its expectation is log p(x) - KL(q || exact posterior), which has a closed form here."""
    model, exact = Linear(shift=0.5, stretch=1.3), Linear()
    image = model.images(1)
    log_variance = exact.posterior({}, image)[1]
    divergence = 0.5 * (1.3**2 - 1 - 2 * math.log(1.3) + 0.5**2 * (-log_variance).exp()).sum()
    found = weights(model, image, 40_000).mean(0)
    torch.testing.assert_close(found, model.log_marginal(image) - divergence, rtol=0, atol=0.03)


def test_the_elbo_is_never_above_the_bound_of_the_same_draws() -> None:
    found = weights(Linear(shift=0.5, stretch=0.8), Linear().images(50), 7)
    assert (found.mean(0) < importance_bound(found)).all()
    single = found[:1]
    torch.testing.assert_close(importance_bound(single), single[0])


def test_the_bound_is_the_log_of_the_mean_weight_and_does_not_overflow() -> None:
    moderate = torch.tensor([[1.0, -2.0], [2.0, 0.5], [-1.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(importance_bound(moderate), moderate.exp().mean(0).log())
    torch.testing.assert_close(importance_bound(moderate - 2000), importance_bound(moderate) - 2000)
    torch.testing.assert_close(importance_bound(moderate + 2000), importance_bound(moderate) + 2000)


def test_chunks_and_batches_change_nothing_but_rounding() -> None:
    model = Linear(shift=0.5)
    images = model.images(11)
    whole = weights(model, images, 9)
    assert model.decoded == [99]
    for values, most in ((6, 1), (30, 5), (6 * 20, 20)):  # a code at a time, part of an image's, two images'
        model.decoded.clear()
        torch.testing.assert_close(weights(model, images, 9, chunk_values=values), whole)
        assert max(model.decoded) <= most
    noise = rng.generator(0, "codes")
    parts = [log_weights(model, {}, part, 9, noise, None) for part in images.split(4)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_samples_differ_and_the_seed_decides() -> None:
    model = Linear(shift=0.5)
    images = model.images(2).repeat(2, 1, 1, 1)  # equal images, codes of their own
    found = weights(model, images, 3)
    assert len(found.flatten().unique()) == 12
    assert torch.equal(found, weights(model, images, 3))
    assert not torch.equal(found, log_weights(model, {}, images, 3, rng.generator(1, "codes"), None))


def test_a_real_vae_of_binary_images_against_a_sum_over_a_grid() -> None:
    """One number in the code: log p(x) by the trapezoid rule over z, to which the bound comes close."""
    raw = {"lane": "l", "dataset": "d", "features": "d", "model": "bernoulli_vae", "net": "mlp", "latent_dim": 1}
    raw |= {"width": 8, "epochs": 1, "batch_size": 2, "flip": False, "lr": 1e-3, "ema_halflife_images": None}
    settings = bernoulli_vae.Settings.model_validate(raw | {"precision": "float32", "lr_halflife_images": None})
    with rng.default_generators(0, "weights"):
        networks = bernoulli_vae.build(settings, (1, 4, 4))
    with torch.no_grad():
        for weight in networks["decoder"].parameters():
            weight.mul_(4)
    images = torch.rand((6, 1, 4, 4), generator=rng.generator(0, "x")).round()
    grid = torch.linspace(-9, 9, 4001)[:, None]
    likelihood = torch.stack(
        [bernoulli_vae.log_likelihood(networks, x.expand(4001, 1, 4, 4), grid, settings) for x in images], 1
    ).detach()
    joint = likelihood.double() + Normal(0.0, 1.0).log_prob(grid.double())
    exact = torch.trapezoid(joint.exp(), grid[:, 0].double(), dim=0).log()
    found = log_weights(bernoulli_vae, networks, images, 5000, rng.generator(0, "codes"), settings)
    assert not found.requires_grad
    torch.testing.assert_close(importance_bound(found), exact, rtol=0, atol=0.05)
    assert (found.mean(0) < exact).all()


def test_what_cannot_be_is_refused() -> None:
    model = Linear()
    with pytest.raises(GenlibError, match=r"samples: 0 codes for each image asked for; ask for at least 1"):
        weights(model, model.images(2), 0)
    for shape in [(0, *SHAPE), (2, 6)]:
        with pytest.raises(GenlibError, match=rf"images: shape \({shape[0]}, .*; pass B x C x H x W"):
            weights(model, torch.zeros(shape, dtype=torch.float64), 2)
    for weights_shape in [(3,), (0, 3)]:
        with pytest.raises(GenlibError, match=r"log_weights: shape .*; pass K x B with K at least 1"):
            importance_bound(torch.zeros(weights_shape))
    with pytest.raises(GenlibError, match=r"log_weights: NaN; check the model"):
        importance_bound(torch.tensor([[0.0, math.nan]]))
