"""The gradient estimators against the exact means and variances of a linear toy: closed forms and quadrature."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from genlib.errors import GenlibError
from genlib.metrics.steps.gradient_variance import GradientEstimate, GradientVariance, gradient_variance

Array = NDArray[np.float64]
DRAWS = 4000


@dataclass
class LinearToy:
    """Decoder z -> W z; the encoder's parameters are the means and log-variances themselves."""

    weights: Tensor  # pixels Z
    images: Tensor  # B 1 1 pixels
    means: Tensor  # B Z
    log_variances: Tensor  # B Z
    parameters: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = [self.means.requires_grad_(), self.log_variances.requires_grad_()]

    def decode(self, codes: Tensor) -> Tensor:
        return (codes @ self.weights.T).reshape(len(codes), 1, 1, -1)

    def measure(self, draws: int = DRAWS, seed: int = 0) -> GradientVariance:
        rng = torch.Generator().manual_seed(seed)
        return gradient_variance(
            lambda images: (self.means, self.log_variances), self.decode, self.parameters, self.images, draws, rng
        )


def estimates(measured: GradientVariance) -> dict[str, GradientEstimate]:
    return {
        "pathwise": measured.pathwise,
        "score_function": measured.score_function,
        "score_function_with_baseline": measured.score_function_with_baseline,
    }


def wide_toy() -> LinearToy:
    """4 images of 5 pixels, 3 latent dimensions."""
    generator = torch.Generator().manual_seed(1)
    return LinearToy(
        weights=0.4 * torch.randn(5, 3, generator=generator),
        images=torch.rand(4, 1, 1, 5, generator=generator),
        means=0.5 * torch.randn(4, 3, generator=generator),
        log_variances=0.3 * torch.randn(4, 3, generator=generator) - 0.5,
    )


def narrow_toy() -> LinearToy:
    """2 images of 1 pixel, 1 latent dimension: small enough for exact integrals over all its noise."""
    return LinearToy(
        weights=torch.tensor([[0.5]]),
        images=torch.tensor([0.9, 0.1]).reshape(2, 1, 1, 1),
        means=torch.tensor([[-0.8], [1.4]]),
        log_variances=torch.tensor([[-1.5], [-1.0]]),
    )


def test_all_estimators_are_unbiased_for_a_linear_decoder() -> None:
    """E|x - W z|^2 = |x - W m|^2 + sum_j |W_j|^2 exp(v_j) for z ~ N(m, diag(exp(v)))."""
    toy = wide_toy()
    weights, means, log_variances = (t.detach().double() for t in (toy.weights, toy.means, toy.log_variances))
    residuals = toy.images.double().reshape(4, 5) - means @ weights.T
    by_mean = -2 * residuals @ weights / 4
    by_log_variance = weights.square().sum(0) * log_variances.exp() / 4
    expected = torch.cat([by_mean.flatten(), by_log_variance.flatten()])
    measured = estimates(toy.measure())
    for name, estimate in measured.items():
        errors = (estimate.variance / DRAWS).sqrt()
        assert float(((estimate.mean - expected) / errors).abs().max()) < 4.5, name  # of 24 coordinates
        assert float(errors.square().sum().sqrt()) < 0.15 * float(expected.norm()), name  # so it could have failed
    assert measured["score_function"].total_variance > 5 * measured["pathwise"].total_variance
    assert measured["score_function_with_baseline"].total_variance > 5 * measured["pathwise"].total_variance


def exact_gradients(toy: LinearToy) -> tuple[dict[str, Array], Array]:
    """Gradients of every estimator (nodes, 4: two means, two log-variances) on a grid of the noise, and its weights.

    Gauss-Hermite quadrature is exact for polynomials of degree up to 2 * nodes - 1; fourth powers here have degree 16.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    noise = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    probabilities = np.outer(weights, weights).ravel() / (2 * np.pi)
    weight, x = float(toy.weights), toy.images.double().numpy().ravel()
    mean, deviation = (
        toy.means.detach().double().numpy().ravel(),
        np.exp(toy.log_variances.detach().numpy().ravel() / 2),
    )
    codes = mean + deviation * noise
    loss = (x - weight * codes) ** 2
    slope = -2 * weight * (x - weight * codes)  # d loss / d code
    score = np.concatenate([noise / deviation, (noise**2 - 1) / 2], axis=1)  # d log q / d (mean, log-variance)
    others = loss[:, ::-1]
    gradients = {
        "pathwise": np.concatenate([slope, slope * noise * deviation / 2], axis=1) / 2,
        "score_function": np.tile(loss, 2) * score / 2,
        "score_function_with_baseline": np.tile(loss - others, 2) * score / 2,
    }
    return gradients, probabilities


def test_means_and_variances_are_those_of_exact_integration() -> None:
    toy = narrow_toy()
    gradients, probabilities = exact_gradients(toy)
    for name, estimate in estimates(toy.measure()).items():
        mean = probabilities @ gradients[name]
        deviations = gradients[name] - mean
        variance, fourth = probabilities @ deviations**2, probabilities @ deviations**4
        np.testing.assert_allclose(mean, probabilities @ gradients["pathwise"], rtol=1e-9)
        mean_error, variance_error = np.sqrt(variance / DRAWS), np.sqrt((fourth - variance**2) / DRAWS)
        assert np.all(np.abs(estimate.mean.numpy() - mean) < 4.5 * mean_error), name
        assert np.all(np.abs(estimate.variance.numpy() - variance) < 4.5 * variance_error), name
        assert np.all(variance_error < 0.25 * variance), name  # so it could have failed


def test_estimators_share_noise_and_streaming_equals_storing() -> None:
    """The same numbers from each draw's gradients kept and summarised at the end, in closed form."""
    toy = wide_toy()
    measured = toy.measure(draws=7, seed=3)
    rng = torch.Generator().manual_seed(3)
    weights, images = toy.weights, toy.images.reshape(4, 5)
    means, deviations = toy.means.detach(), torch.exp(toy.log_variances.detach() / 2)
    stored: dict[str, list[Tensor]] = {name: [] for name in estimates(measured)}
    for _ in range(7):
        noise = torch.randn(4, 3, generator=rng)
        residuals = images - (means + deviations * noise) @ weights.T
        slope, loss = -2 * residuals @ weights, residuals.square().sum(1, keepdim=True)
        baseline = (loss.sum() - loss) / 3
        by_mean, by_log_variance = noise / deviations, (noise.square() - 1) / 2
        stored["pathwise"].append(torch.cat([slope, slope * noise * deviations / 2]).flatten() / 4)
        stored["score_function"].append(torch.cat([loss * by_mean, loss * by_log_variance]).flatten() / 4)
        centred = loss - baseline
        stored["score_function_with_baseline"].append(
            torch.cat([centred * by_mean, centred * by_log_variance]).flatten() / 4
        )
    for name, estimate in estimates(measured).items():
        gradients = torch.stack(stored[name]).double()
        torch.testing.assert_close(estimate.mean, gradients.mean(0), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(estimate.variance, gradients.var(0), rtol=1e-4, atol=1e-6)
        assert estimate.mean.dtype == estimate.variance.dtype == torch.float64
        assert estimate.draws == 7


def test_summary_numbers() -> None:
    estimate = GradientEstimate(torch.tensor([3.0, 4.0]).double(), torch.tensor([1.0, 9.0]).double(), draws=5)
    assert estimate.total_variance == 10
    assert estimate.mean_variance == 5
    assert estimate.squared_norm == 25
    assert estimate.ratio == pytest.approx(0.4)
    assert GradientEstimate(torch.zeros(2).double(), torch.zeros(2).double(), draws=5).ratio is None


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Sigmoid(), torch.nn.Unflatten(1, (1, 4, 4)))
    generator = torch.Generator().manual_seed(0)
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        parameter.data.normal_(0, 0.3, generator=generator)
    return encoder, decoder


def measure_networks(
    draws: int, seed: int
) -> tuple[GradientVariance, list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    encoder, decoder = networks()
    images = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))

    def encode(batch: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = encoder(batch).chunk(2, dim=1)
        return mean, log_variance

    rng = torch.Generator().manual_seed(seed)
    encoder_parameters, decoder_parameters = list(encoder.parameters()), list(decoder.parameters())
    measured = gradient_variance(encode, decoder, encoder_parameters, images, draws, rng)
    return measured, encoder_parameters, decoder_parameters


def test_networks_keep_their_grads_and_baselines_help() -> None:
    measured, encoder_parameters, decoder_parameters = measure_networks(draws=50, seed=0)
    assert all(parameter.grad is None for parameter in [*encoder_parameters, *decoder_parameters])
    coordinates = sum(parameter.numel() for parameter in encoder_parameters)
    assert all(estimate.mean.shape == (coordinates,) for estimate in estimates(measured).values())
    baseline = measured.score_function_with_baseline.total_variance
    assert measured.pathwise.total_variance < baseline < measured.score_function.total_variance


def test_the_generator_decides_the_result() -> None:
    state = torch.random.get_rng_state()
    wide_toy().measure(draws=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    first, again, other = (measure_networks(draws=3, seed=seed)[0].pathwise.mean for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_impossible_requests_are_refused() -> None:
    toy = wide_toy()
    rng = torch.Generator()

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        return toy.means, toy.log_variances

    with pytest.raises(GenlibError, match="draws: 1"):
        toy.measure(draws=1)
    with pytest.raises(GenlibError, match="images"):
        gradient_variance(encode, toy.decode, toy.parameters, toy.images[:1], 2, rng)
    with pytest.raises(GenlibError, match="encode"):
        gradient_variance(encode, toy.decode, toy.parameters, toy.images[:2], 2, rng)
    with pytest.raises(GenlibError, match="decode"):
        gradient_variance(encode, lambda codes: codes, toy.parameters, toy.images, 2, rng)
    with pytest.raises(GenlibError, match="parameters"):
        gradient_variance(encode, toy.decode, [], toy.images, 2, rng)
    with pytest.raises(GenlibError, match="parameters"):
        gradient_variance(encode, toy.decode, [toy.means, toy.weights], toy.images, 2, rng)
    with pytest.raises(GenlibError, match="gradient: NaN"):
        gradient_variance(encode, lambda codes: toy.decode(codes) * torch.nan, toy.parameters, toy.images, 2, rng)
