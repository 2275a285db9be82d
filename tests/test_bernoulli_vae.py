"""The VAE of binary images: its likelihood against torch.distributions, how it binarises, its learning rate."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from genlib import nets, objectives, params, rng
from genlib.objectives import bernoulli_vae, vae

SHAPE = (1, 28, 28)
_RUN = {
    "lane": "demo",
    "dataset": "digits",
    "features": "digits",
    "net": "mlp",
    "latent_dim": 3,
    "width": 5,
    "epochs": 2,
    "batch_size": 10,
    "flip": False,
    "lr": 1e-3,
    "ema_halflife_images": None,
    "precision": "float32",
}


def made(**changes: Any) -> bernoulli_vae.Settings:
    own = {"model": "bernoulli_vae", "lr_halflife_images": None}
    return bernoulli_vae.Settings.model_validate(_RUN | own | changes)


def gaussian(beta: float) -> vae.Settings:
    return vae.Settings.model_validate(_RUN | {"model": "vae", "output": "sigmoid", "beta": beta})


def built(settings: bernoulli_vae.Settings) -> dict[str, nn.Module]:
    with rng.default_generators(0, "test"):
        return bernoulli_vae.build(settings, SHAPE)


def grey(count: int = 6) -> Tensor:
    return torch.rand((count, *SHAPE), generator=rng.generator(0, "grey"))


def codes(count: int = 6) -> Tensor:
    return 2 * rng.latents(count, 3, 0, "codes")


def test_the_likelihood_is_bernoullis() -> None:
    networks, settings = built(made()), made()
    binary = grey().round()
    expected = Independent(Bernoulli(logits=networks["decoder"](codes())), 3).log_prob(binary)
    found = bernoulli_vae.log_likelihood(networks, binary, codes(), settings)
    assert found.shape == (6,)
    torch.testing.assert_close(found, expected)
    assert (found < 0).all()
    assert "Bernoulli" in bernoulli_vae.likelihood(settings)


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_the_likelihood_of_the_other_vae_is_a_gaussian_of_variance_half_beta(beta: float) -> None:
    settings = gaussian(beta)
    with rng.default_generators(0, "test"):
        networks = vae.build(settings, SHAPE)
    expected = Independent(Normal(networks["decoder"](codes()), math.sqrt(beta / 2)), 3).log_prob(grey())
    torch.testing.assert_close(vae.log_likelihood(networks, grey(), codes(), settings), expected)
    assert vae.likelihood(settings) == f"Gaussian, variance {beta / 2:g} per pixel in 0..1"


def test_binarised_pixels_are_one_with_the_probability_of_their_grey_value() -> None:
    values = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    binary = bernoulli_vae.observe(values.expand(20_000, 1, 1, 5), rng.generator(0, "pixels"))
    assert set(binary.unique().tolist()) == {0.0, 1.0}
    assert binary.dtype == torch.float32
    shares = binary.mean((0, 1, 2))
    assert (shares[0].item(), shares[4].item()) == (0, 1)  # black and white stay
    torch.testing.assert_close(shares, values, atol=0.012, rtol=0)
    pixels = binary[:, 0, 0, 1:4]
    assert torch.corrcoef(pixels.T).fill_diagonal_(0).abs().max() < 0.03  # each pixel for itself


def test_binary_images_are_left_alone_and_grey_ones_drawn_anew() -> None:
    noise = rng.generator(0, "pixels")
    first, second = bernoulli_vae.observe(grey(), noise), bernoulli_vae.observe(grey(), noise)
    assert not torch.equal(first, second)
    assert torch.equal(bernoulli_vae.observe(first, noise), first)
    assert torch.equal(bernoulli_vae.observe(grey(), rng.generator(0, "pixels")), first)


def test_the_losses_are_the_negative_elbo() -> None:
    networks, settings = built(made()), made()
    losses = bernoulli_vae.heldout_losses(networks, grey(), rng.generator(0, "noise"), settings)
    noise = rng.generator(0, "noise")
    binary = (torch.rand((6, *SHAPE), generator=noise) < grey()).float()
    mean, log_variance = networks["encoder"](binary).chunk(2, dim=1)
    code = mean + (log_variance / 2).exp() * torch.randn((6, 3), generator=noise)
    likelihood = Independent(Bernoulli(logits=networks["decoder"](code)), 3).log_prob(binary)
    prior = Normal(torch.zeros(6, 3), torch.ones(6, 3))
    divergence = kl_divergence(Normal(mean, (log_variance / 2).exp()), prior).sum(1)
    torch.testing.assert_close(losses["generation"], -likelihood)
    torch.testing.assert_close(losses["latent"], divergence)
    torch.testing.assert_close(losses["total"], divergence - likelihood)


def test_a_step_follows_the_total_and_reports_what_was_before_it() -> None:
    """One step of plain Adam down the batch mean of the total: the fused one moves every weight the same way."""
    settings = made(lr=1e-2)
    expected, moved = built(settings), built(settings)
    losses = bernoulli_vae.heldout_losses(expected, grey(), rng.generator(0, "noise"), settings)
    losses["total"].mean().backward()
    torch.optim.Adam([*expected["encoder"].parameters(), *expected["decoder"].parameters()], lr=1e-2).step()
    optimizers = {"autoencoder": bernoulli_vae.optimizer("autoencoder", moved, settings)}
    reported = bernoulli_vae.train_step(moved, optimizers, grey(), rng.generator(0, "noise"), settings)
    for name in expected:
        for one, other in zip(expected[name].parameters(), moved[name].parameters(), strict=True):
            torch.testing.assert_close(other, one, atol=2e-5, rtol=1e-4)
    for name, loss in reported.items():
        torch.testing.assert_close(loss, losses[name].mean().detach())


def test_what_is_drawn_are_probabilities() -> None:
    networks = built(made())
    expected = torch.sigmoid(networks["decoder"](codes()))
    torch.testing.assert_close(bernoulli_vae.draw(networks, codes()), expected)
    torch.testing.assert_close(bernoulli_vae.preview(networks, codes(), grey()), expected)


def test_codes_fed_in_training_are_of_binarised_images() -> None:
    networks, settings = built(made()), made()
    noise = rng.generator(0, "noise")
    mean, log_variance = bernoulli_vae.posterior(networks, bernoulli_vae.observe(grey(), noise))
    expected = mean + (log_variance / 2).exp() * torch.randn((6, 3), generator=noise)
    torch.testing.assert_close(bernoulli_vae.fed(networks, grey(), rng.generator(0, "noise"), settings), expected)
    assert torch.equal(bernoulli_vae.encode(networks, grey()), bernoulli_vae.posterior(networks, grey())[0])


@pytest.mark.parametrize(("net", "shape"), [("mlp", (1, 9, 7)), ("deck28", SHAPE), ("dcgan", (3, 32, 32))])
def test_every_net_gives_logits(net: str, shape: nets.Shape) -> None:
    settings = made(net=net, width=2)
    with rng.default_generators(0, "test"):
        networks = objectives.get("bernoulli_vae").build(settings, shape)
    logits = networks["decoder"](5 * codes())
    assert logits.shape == (6, *shape)
    assert logits.min() < 0 < logits.max()


def test_the_run_is_the_published_architecture() -> None:
    settings = params.load().run("mnist-vae-bernoulli")
    assert (settings.model, settings.net, settings.lane) == ("bernoulli_vae", "mlp", "published")
    assert (settings.width, settings.latent_dim, settings.batch_size) == (400, 40, 100)
