"""Numbers of models that encode: bounds against closed forms, reconstructions against hand computation."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

from genlib import objectives, rng
from genlib.data.arrays import Images
from genlib.evaluation import encoders
from genlib.models import Model
from genlib.objectives import Objective
from genlib.objectives._shared import reparameterize
from genlib.settings import ImportanceSettings, RunSettings

Small = Callable[..., RunSettings]

SHAPE = (1, 12, 11)
DIMENSIONS = 12 * 11
FEW = ImportanceSettings(samples=4, images=15)


def pictures(count: int, seed: int = 0) -> Images:
    """Smooth grey images: a wave of random direction and phase."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:12, :11]
    waves = [np.sin(rows * a + columns * b + c) for a, b, c in random.uniform(-1, 1, (count, 3)) * [1, 1, 3]]
    return np.round(127.5 + 120 * np.array(waves))[:, None].astype(np.uint8)


TEST = pictures(40)


def made(small: Small, name: str, **changes: Any) -> Model:
    """An untrained model: its first weights are enough to be measured."""
    settings = small(name, net="mlp", width=9, **changes)
    objective = objectives.get(name)
    with rng.default_generators(0, "test"):
        networks = {part: network.eval() for part, network in objective.build(settings, SHAPE).items()}
    return Model("a-run", 3, settings, SHAPE, objective, networks, None, None, None, torch.device("cpu"))


class Linear:
    """p(x|z) = N(W z + 1/2, 1/50), p(z) = N(0, I), with the exact posterior or one that is too narrow."""

    DRAWS = "decoder"

    def __init__(self, narrower: float = 1.0) -> None:
        self.weights = 0.2 * torch.randn(DIMENSIONS, 2, generator=rng.generator(0, "weights"))
        self.variance = 1 / 50
        covariance = torch.linalg.inv(torch.eye(2) + self.weights.T @ self.weights / self.variance)
        rotation = torch.linalg.eigh(covariance).eigenvectors
        self.weights = self.weights @ rotation  # so that the posterior has independent parts
        precision = 1 + (self.weights**2).sum(0) / self.variance
        self.log_variance = -precision.log() + math.log(narrower)
        self.gain = self.weights.T / self.variance / precision[:, None]

    def posterior(self, networks: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        mean = (images.flatten(1) - 0.5) @ self.gain.T
        return mean, self.log_variance.expand_as(mean)

    def log_likelihood(self, networks: Any, images: Tensor, codes: Tensor, settings: Any) -> Tensor:
        centre = codes @ self.weights.T + 0.5
        density: Tensor = Independent(Normal(centre, self.variance**0.5), 1).log_prob(images.flatten(1))
        return density

    def evidence(self, images: Images) -> Tensor:
        """log p(x): a Gaussian, W W' + variance."""
        covariance = self.weights.double() @ self.weights.double().T + self.variance * torch.eye(DIMENSIONS)
        marginal = MultivariateNormal(torch.full((DIMENSIONS,), 0.5).double(), covariance)
        evidence: Tensor = marginal.log_prob(torch.from_numpy(images).flatten(1).double() / 255)
        return evidence


def linear(small: Small, narrower: float = 1.0) -> tuple[Model, Linear]:
    objective = Linear(narrower)
    return replace(made(small, "vae"), objective=cast(Objective, objective), networks={}), objective


def test_bounds_of_a_linear_model_with_its_exact_posterior_are_the_evidence(small: Small) -> None:
    """Every draw has the same weight p(x): no variance, no gap."""
    model, objective = linear(small)
    found = encoders.of_likelihood(model, TEST, ImportanceSettings(samples=3, images=40))
    evidence = objective.evidence(TEST)
    assert found["elbo"] == pytest.approx(float(evidence.mean()), abs=1)  # its KL is exact, its code drawn
    assert found["nll"] == pytest.approx(-float(evidence.mean()), rel=1e-4)
    assert found["nll_elbo"] == pytest.approx(found["nll"], rel=1e-4)
    assert found["nll_standard_error"] == pytest.approx(float(evidence.std()) / math.sqrt(40), rel=1e-3)
    mean, log_variance = objective.posterior({}, torch.from_numpy(TEST).float() / 255)
    latent = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
    assert found["kl"] == pytest.approx(float(latent.mean()), rel=1e-4)


def test_a_posterior_that_is_too_narrow_costs_the_elbo_a_divergence_and_the_bound_less(small: Small) -> None:
    """KL(q || p(z|x)) of two parts, each of a tenth of the variance: the ELBO is that much below the evidence."""
    model, objective = linear(small, narrower=0.1)
    found = encoders.of_likelihood(model, TEST, ImportanceSettings(samples=500, images=40))
    evidence = float(objective.evidence(TEST).mean())
    divergence = 2 * 0.5 * (0.1 - 1 - math.log(0.1))
    assert found["nll_elbo"] == pytest.approx(divergence - evidence, abs=0.05)
    assert -evidence < found["nll"] < found["nll_elbo"] - 0.5 * divergence


@pytest.mark.parametrize("name", ["vae", "bernoulli_vae"])
def test_the_bound_is_never_below_the_elbo_of_the_same_draws(name: str, small: Small) -> None:
    model = made(small, name)
    one = encoders.of_likelihood(model, TEST, ImportanceSettings(samples=1, images=40))
    assert one["nll"] == one["nll_elbo"]
    many = encoders.of_likelihood(model, TEST, ImportanceSettings(samples=50, images=40))
    assert many["nll"] < many["nll_elbo"]
    assert many["nll_elbo"] == pytest.approx(-many["elbo"], rel=0.05)
    assert many == encoders.of_likelihood(model, TEST, ImportanceSettings(samples=50, images=999))


@pytest.mark.parametrize("name", ["vae", "bernoulli_vae"])
def test_the_elbo_is_the_likelihood_less_the_divergence(name: str, small: Small) -> None:
    """One draw for each image, by the distributions of torch."""
    model = made(small, name)
    images = torch.from_numpy(model.observed(TEST)).float() / 255
    with torch.no_grad():
        mean, log_variance = model.networks["encoder"](images).chunk(2, 1)
        noise = torch.randn(mean.shape, generator=rng.generator(3, "evaluation codes"))
        output = model.networks["decoder"](mean + (log_variance / 2).exp() * noise)
    pixels = Bernoulli(logits=output) if name == "bernoulli_vae" else Normal(output, 0.5**0.5)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
    found = encoders.of_likelihood(model, TEST, FEW)
    assert found["kl"] == pytest.approx(float(kl.mean()), rel=1e-5)
    assert found["elbo"] == pytest.approx(float((Independent(pixels, 3).log_prob(images) - kl).mean()), rel=1e-5)


def test_bits_per_dim_by_hand() -> None:
    """784 fair coins are one bit each; a density of 1 says that a step of 1/255 has a probability of 1/255."""
    assert encoders.bits_per_dim(784 * math.log(2), 784, discrete=True) == pytest.approx(1)
    assert encoders.bits_per_dim(0.0, 784, discrete=False) == pytest.approx(math.log2(255))
    assert encoders.bits_per_dim(-10 * math.log(2), 5, discrete=False) == pytest.approx(math.log2(255) - 2)


@pytest.mark.parametrize(("name", "levels"), [("vae", math.log2(255)), ("bernoulli_vae", 0.0)])
def test_bits_per_dim_are_of_the_bound_on_the_likelihood(name: str, levels: float, small: Small) -> None:
    found = encoders.of_likelihood(made(small, name), TEST, FEW)
    assert found["bits_per_dim"] == pytest.approx(found["nll"] / DIMENSIONS / math.log(2) + levels)


def test_a_model_without_likelihood_has_none(small: Small) -> None:
    for name in ("ae", "gan"):
        assert encoders.of_likelihood(made(small, name), TEST, FEW) == {}
        assert encoders.likelihood_card(made(small, name), TEST, FEW) == {}


def test_the_card_says_of_what_the_bounds_are(small: Small) -> None:
    assert encoders.likelihood_card(made(small, "vae", beta=1.0), TEST, FEW) == {
        "likelihood": "Gaussian, variance 0.5 per pixel in 0..1",
        "elbo_draws": 1,
        "importance_samples": 4,
        "importance_images": 15,
    }
    more = encoders.likelihood_card(made(small, "bernoulli_vae"), TEST, ImportanceSettings(samples=9, images=99))
    assert more["likelihood"].startswith("Bernoulli")
    assert (more["importance_samples"], more["importance_images"]) == (9, 40)


def test_a_vae_that_ignores_half_of_its_code_has_that_many_units_less(small: Small) -> None:
    """Posteriors N(0, 1) are the prior itself: where all of them are, codes do not differ from it."""
    model = made(small, "vae", latent_dim=4)
    last = model.networks["encoder"].get_submodule("3")
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight[:2] *= 30  # the means of two numbers of the code differ between images
        for rows in (slice(2, 4), slice(4, 8)):  # the other two means, all variances
            last.weight[rows] = 0
            last.bias[rows] = 0
    found = encoders.of_codes(model, TEST)
    assert found["active_units"] == 2
    with torch.no_grad():
        last.weight[:2] = 0
        last.bias[:2] = 0
    many = pictures(900, 1)
    found = encoders.of_codes(model, many)
    assert found["active_units"] == 0
    assert found["code_mismatch"] < 0.05  # Z (Z + 3) / (4 N) is 0.008
    with torch.no_grad():
        last.bias[:4] = 2.0
    assert encoders.of_codes(model, many)["code_mismatch"] == pytest.approx(4 * 2**2 / 2, abs=0.5)


def test_an_autoencoders_codes_are_compared_themselves(small: Small) -> None:
    model = made(small, "ae", latent_dim=2)
    with torch.no_grad():
        codes = model.networks["encoder"](torch.from_numpy(TEST).float() / 255).double().numpy()
    covariance, mean = np.cov(codes, rowvar=False), codes.mean(0)
    expected = 0.5 * (np.trace(covariance) + mean @ mean - 2 - np.log(np.linalg.det(covariance)))
    assert encoders.of_codes(model, TEST) == {"code_mismatch": pytest.approx(expected, rel=1e-4)}
    assert encoders.of_codes(made(small, "gan"), TEST) == {}


def ssim(one: Images, other: Images) -> float:
    values = [
        structural_similarity(  # type: ignore[no-untyped-call]
            a[0], b[0], gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        for a, b in zip(one, other, strict=True)
    ]
    return float(np.mean(values))


def psnr(one: Images, other: Images) -> float:
    errors = ((one / 255 - other / 255) ** 2).mean((1, 2, 3))
    return float(np.mean(-10 * np.log10(errors)))


@pytest.mark.parametrize("name", ["ae", "vae", "bernoulli_vae"])
def test_reconstructions_by_hand(name: str, small: Small) -> None:
    model, train = made(small, name), pictures(60, 1)
    images = model.observed(TEST)
    with torch.no_grad():
        codes = model.networks["encoder"](torch.from_numpy(images).float() / 255)[:, :3]
        output = model.networks["decoder"](codes)
    shown = np.round(255 * (output.sigmoid() if name == "bernoulli_vae" else output).numpy()).astype(np.uint8)
    found = encoders.of_reconstructions(model, train, TEST)
    assert set(found) == {"recon_mse", "recon_psnr", "recon_ssim", "pca_mse"}
    assert found["recon_mse"] == pytest.approx(((images / 255 - shown / 255) ** 2).mean(), rel=1e-3)
    assert found["recon_psnr"] == pytest.approx(psnr(images, shown), rel=1e-3)
    assert found["recon_ssim"] == pytest.approx(ssim(images, shown), rel=1e-3)

    flat = model.observed(train).reshape(60, -1) / 255
    _, _, axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    centred = images.reshape(40, -1) / 255 - flat.mean(0)
    projected = np.clip(centred @ axes[:3].T @ axes[:3] + flat.mean(0), 0, 1)
    assert found["pca_mse"] == pytest.approx(((images.reshape(40, -1) / 255 - projected) ** 2).mean(), rel=1e-5)


def test_an_image_that_comes_back_exactly_costs_the_psnr_alone(small: Small) -> None:
    model = made(small, "ae")
    exact = model.reconstruct(model.reconstruct(TEST[:1]))
    for _ in range(200):  # an image that the model leaves as it is
        exact = model.reconstruct(exact)
    assert (model.reconstruct(exact) == exact).all()
    found = encoders.of_reconstructions(model, pictures(60, 1), np.concatenate([TEST, exact]))
    assert set(found) == {"recon_mse", "recon_ssim", "pca_mse"}


def test_a_denoising_autoencoder_is_judged_by_what_it_restores(small: Small) -> None:
    model = made(small, "ae", noise=0.4)
    found = encoders.of_reconstructions(model, pictures(60, 1), TEST)
    noisy = model.corrupted(TEST)
    restored = model.reconstruct(noisy)
    assert np.std(noisy / 255 - TEST / 255) > 0.2
    assert found == pytest.approx(
        {
            "noisy_psnr": psnr(TEST, noisy),
            "noisy_ssim": ssim(TEST, noisy),
            "restored_mse": ((TEST / 255 - restored / 255) ** 2).mean(),
            "restored_psnr": psnr(TEST, restored),
            "restored_ssim": ssim(TEST, restored),
        }
    )


def test_a_gan_reconstructs_nothing(small: Small) -> None:
    assert encoders.of_reconstructions(made(small, "gan"), pictures(60, 1), TEST) == {}


def test_only_the_model_of_binary_images_observes_others_than_it_is_given(small: Small) -> None:
    for name in ("ae", "vae", "gan"):
        assert np.array_equal(made(small, name).observed(TEST), TEST)
    model, many = made(small, "bernoulli_vae"), pictures(600, 2)
    binary = model.observed(many)
    assert binary.dtype == np.uint8
    assert binary.shape == many.shape
    assert set(np.unique(binary)) == {0, 255}
    assert np.array_equal(binary, model.observed(many))
    assert np.array_equal(model.observed(binary), binary)
    assert not np.array_equal(binary, replace(model, seed=4).observed(many))
    for level in (40, 127, 220):
        chosen = np.abs(many.astype(int) - level) < 8
        assert (binary[chosen] == 255).mean() == pytest.approx(many[chosen].mean() / 255, abs=0.02)


def test_images_on_disk_are_read_as_they_are(small: Small, tmp_path: Any) -> None:
    np.save(tmp_path / "test.npy", TEST)
    np.save(tmp_path / "train.npy", pictures(60, 1))
    test, train = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("test", "train"))
    for name in ("ae", "vae", "bernoulli_vae"):
        model = made(small, name)
        assert encoders.of_reconstructions(model, train, test) == encoders.of_reconstructions(
            model, pictures(60, 1), TEST
        )
        assert encoders.of_likelihood(model, test, FEW) == encoders.of_likelihood(model, TEST, FEW)
        assert encoders.of_codes(model, test) == encoders.of_codes(model, TEST)


def test_vae_draws_of_the_elbo_and_of_the_codes_are_others(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two generators: the codes that are compared with N(0, I) are not those of the bound."""
    seen: list[Tensor] = []
    original = reparameterize

    def spied(mean: Tensor, log_variance: Tensor, noise: torch.Generator) -> Tensor:
        seen.append((original(mean, log_variance, noise) - mean) / (0.5 * log_variance).exp())
        return seen[-1] * (0.5 * log_variance).exp() + mean

    monkeypatch.setattr(encoders, "reparameterize", spied)
    model = made(small, "vae")
    encoders.of_likelihood(model, TEST, FEW)
    encoders.of_codes(model, TEST)
    assert len(seen) == 2
    assert not torch.allclose(seen[0].double(), seen[1].double(), atol=1e-2)
