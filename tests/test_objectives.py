"""Losses against independent computations; who is moved by whose step."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F

from genlib import objectives, rng
from genlib.adam import Adam
from genlib.objectives import _shared, ae, gan, vae
from genlib.objectives._shared import generation_loss, latent_loss
from genlib.settings import RunSettings

Small = Callable[..., RunSettings]
SHAPE = (1, 28, 28)


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def images(count: int = 6, seed: int = 0) -> Tensor:
    return torch.rand((count, *SHAPE), generator=torch.Generator().manual_seed(seed))


def built(settings: RunSettings, seed: int = 0) -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]:
    objective = objectives.get(settings.model)
    with rng.default_generators(seed, "test"):
        networks = objective.build(settings, SHAPE)
    return networks, {player: objective.optimizer(player, networks, settings) for player in objective.PLAYERS}


def weights(network: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in network.parameters()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


def step(settings: RunSettings, seed: int = 0) -> tuple[dict[str, nn.Module], dict[str, Tensor]]:
    networks, optimizers = built(settings)
    with rng.default_generators(seed, "dropout"):
        losses = objectives.get(settings.model).train_step(
            networks, optimizers, images(), rng.generator(seed, "noise"), settings
        )
    return networks, losses


def train(settings: RunSettings, networks: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]) -> None:
    batch, noise = images(settings.batch_size), rng.generator(0, "noise")
    objectives.get(settings.model).train_step(networks, optimizers, batch, noise, settings)


def rates(optimizers: dict[str, torch.optim.Optimizer]) -> list[float]:
    return [group["lr"] for optimizer in optimizers.values() for group in optimizer.param_groups]


@pytest.mark.parametrize("model", objectives.names())
def test_an_objective_is_what_the_protocol_lists(model: str, small: Small) -> None:
    objective, settings = objectives.get(model), small(model)
    assert issubclass(objective.Settings, RunSettings)
    networks, optimizers = built(settings)
    moved = [name for player in objective.PLAYERS.values() for name in player]
    assert sorted(moved) == sorted(networks)  # each network is moved by one player
    assert objective.DRAWS in networks
    noise = rng.generator(0, "noise")
    trained = objective.train_step(networks, optimizers, images(), noise, settings)
    assert tuple(trained) == objective.LOSSES
    assert all(loss.shape == () and not loss.requires_grad for loss in trained.values())
    heldout = objective.heldout_losses(networks, images(5), noise, settings)
    assert tuple(heldout) == objective.LOSSES
    assert all(loss.shape == (5,) for loss in heldout.values())
    codes = 3 * drawn(4, settings.latent_dim)
    for pictures in (objective.draw(networks, codes), objective.preview(networks, codes, images(4))):
        assert pictures.shape == (4, *SHAPE)
        assert pictures.min() >= 0
        assert pictures.max() <= 1


def test_there_are_the_models_of_the_presentation_and_the_published_one() -> None:
    assert objectives.names() == ("ae", "bernoulli_vae", "gan", "vae")


def test_each_optimizer_holds_exactly_its_players_weights(small: Small) -> None:
    for model in objectives.names():
        networks, optimizers = built(small(model))
        for player, optimizer in optimizers.items():
            held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
            own = {id(w) for name in objectives.get(model).PLAYERS[player] for w in networks[name].parameters()}
            assert held == own


@pytest.mark.parametrize("fused", [False, True])
def test_adam_is_torchs_to_the_byte(fused: bool) -> None:
    """Steps, a state that is taken down and put back, and gradients that are set to none."""
    trained = []
    for kind in (torch.optim.Adam, Adam):
        weight = nn.Parameter(drawn(4, 3))
        optimizer = kind([weight], lr=0.1, betas=(0.5, 0.9), fused=fused)
        for number in range(5):
            if number == 3:
                kept = optimizer.state_dict()
                optimizer = kind([weight], lr=0.7, fused=fused)
                optimizer.load_state_dict(kept)
            (weight * drawn(4, 3, seed=number)).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            assert weight.grad is None
        trained.append([weight, *optimizer.state[weight].values()])
    assert same(*trained)
    assert not torch.equal(trained[0][0], drawn(4, 3))


def test_adam_has_the_settings(small: Small) -> None:
    _, optimizers = built(small("gan", lr=0.25, beta1=0.125))
    for optimizer in optimizers.values():
        assert optimizer.defaults["lr"] == 0.25
        assert optimizer.defaults["betas"] == (0.125, 0.999)
    assert built(small("vae", lr=0.25))[1]["autoencoder"].defaults["lr"] == 0.25


@pytest.mark.parametrize("model", ["bernoulli_vae", "gan"])
def test_the_learning_rate_halves_with_so_many_images(model: str, small: Small) -> None:
    settings = small(model, lr=0.25, lr_halflife_images=20, batch_size=10)
    networks, optimizers = built(settings)
    for expected in (0.25, 0.25 / 2**0.5, 0.125, 0.125 / 2**0.5, 0.0625):
        train(settings, networks, optimizers)
        assert rates(optimizers) == pytest.approx([expected] * len(optimizers))


@pytest.mark.parametrize("model", ["bernoulli_vae", "gan"])
def test_the_learning_rate_stays_without_a_half_life(model: str, small: Small) -> None:
    settings = small(model, lr=0.25, lr_halflife_images=None, batch_size=10)
    networks, optimizers = built(settings)
    for _ in range(3):
        train(settings, networks, optimizers)
        assert rates(optimizers) == [0.25] * len(optimizers)


@pytest.mark.parametrize("model", ["bernoulli_vae", "gan"])
def test_a_resumed_training_goes_on_at_its_learning_rate(model: str, small: Small) -> None:
    settings = small(model, lr=0.25, lr_halflife_images=20, batch_size=10)
    networks, optimizers = built(settings)
    for _ in range(3):
        train(settings, networks, optimizers)
    networks, resumed = built(settings)
    for player, optimizer in resumed.items():
        optimizer.load_state_dict(optimizers[player].state_dict())
    train(settings, networks, resumed)
    assert rates(resumed) == pytest.approx([0.125 / 2**0.5] * len(resumed))


def test_generation_loss_is_the_summed_squared_error() -> None:
    truth, guess = drawn(3, 2, 5, 7), drawn(3, 2, 5, 7, seed=1)
    losses = generation_loss(truth, guess)
    assert losses.shape == (3,)
    for index in range(3):
        torch.testing.assert_close(losses[index], F.mse_loss(guess[index], truth[index], reduction="sum"))


def test_generation_loss_is_a_gaussian_likelihood_of_variance_one_half() -> None:
    truth, guess = drawn(3, 2, 5, 7), drawn(3, 2, 5, 7, seed=1)
    likelihood = Independent(Normal(guess, math.sqrt(0.5)), 3).log_prob(truth)
    torch.testing.assert_close(generation_loss(truth, guess), -likelihood - 0.5 * 70 * math.log(math.pi))


def test_latent_loss_is_the_divergence_from_the_unit_gaussian() -> None:
    mean, log_variance = drawn(4, 6), drawn(4, 6, seed=1)
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    prior = Independent(Normal(torch.zeros(4, 6), torch.ones(4, 6)), 1)
    torch.testing.assert_close(latent_loss(mean, log_variance), kl_divergence(posterior, prior))
    assert latent_loss(torch.zeros(1, 6), torch.zeros(1, 6)).item() == 0


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_the_total_loss_is_beta_times_the_negative_elbo_up_to_a_constant(beta: float, small: Small) -> None:
    """With the likelihood of torch.distributions: N(reconstruction, beta / 2) for each of 28 x 28 pixels."""
    settings = small("vae", beta=beta)
    networks, _ = built(settings)
    losses = vae.heldout_losses(networks, images(), rng.generator(0, "n"), settings)  # type: ignore[arg-type]
    mean, log_variance = vae.posterior(networks, images())
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    codes = mean + posterior.stddev * torch.randn(mean.shape, generator=rng.generator(0, "n"))
    divergence = kl_divergence(posterior, Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1))
    likelihood = Independent(Normal(networks["decoder"](codes), math.sqrt(beta / 2)), 3).log_prob(images())
    elbo = likelihood - divergence
    constant = 28 * 28 / 2 * math.log(math.pi * beta)
    torch.testing.assert_close(losses["total"], -beta * (elbo + constant), atol=1e-3, rtol=1e-5)
    found = vae.log_likelihood(networks, images(), codes, settings)  # type: ignore[arg-type]
    torch.testing.assert_close(found - losses["latent"], elbo, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("real_label", [1.0, 0.9])
def test_discriminator_loss_is_binary_cross_entropy(real_label: float) -> None:
    real, fake = 4 * drawn(8), 4 * drawn(8, seed=1)
    expected = F.binary_cross_entropy_with_logits(real, torch.full((8,), real_label), reduction="none")
    expected = expected + F.binary_cross_entropy_with_logits(fake, torch.zeros(8), reduction="none")
    torch.testing.assert_close(gan.discriminator_loss(real, fake, real_label), expected)


def test_generator_loss_is_binary_cross_entropy_with_the_label_one() -> None:
    fake = 4 * drawn(8)
    expected = F.binary_cross_entropy_with_logits(fake, torch.ones(8), reduction="none")
    torch.testing.assert_close(gan.generator_loss(fake), expected)


def test_losses_of_certain_discriminators_are_finite() -> None:
    far = torch.tensor([-1e4, 1e4])
    assert torch.isfinite(gan.discriminator_loss(far, far, 0.9)).all()
    assert torch.isfinite(gan.generator_loss(far)).all()


def test_generator_loss_does_not_saturate() -> None:
    """Where D is sure to see a fake, the gradient is the largest; log(1 - D(G(z))) would have none there."""
    logits = torch.tensor([-20.0, 0.0, 20.0], requires_grad=True)
    losses = gan.generator_loss(logits)
    assert losses[0] > losses[1] > losses[2]
    losses.sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([-1.0, -0.5, 0.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("model", ["ae", "vae"])
def test_an_image_has_the_same_loss_in_any_batch(model: str, small: Small) -> None:
    settings = small(model)
    networks, _ = built(settings)
    batch = images(6)
    if model == "vae":  # no noise: the code is its mean
        last = networks["encoder"].get_submodule("5")
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight[settings.latent_dim :] = 0
            last.bias[settings.latent_dim :] = -200.0
    objective = objectives.get(model)
    whole = objective.heldout_losses(networks, batch, rng.generator(0, "n"), settings)
    for index in range(6):
        alone = objective.heldout_losses(networks, batch[index : index + 1], rng.generator(0, "n"), settings)
        for name in objective.LOSSES:
            torch.testing.assert_close(alone[name][0], whole[name][index])


@pytest.mark.parametrize("model", ["ae", "vae"])
def test_a_step_reports_the_batch_mean_before_the_move(model: str, small: Small) -> None:
    settings = small(model)
    networks, _ = built(settings)
    before = objectives.get(model).heldout_losses(networks, images(), rng.generator(0, "noise"), settings)
    _, reported = step(settings)
    for name, loss in reported.items():
        torch.testing.assert_close(loss, before[name].mean().detach())


def test_a_vae_step_follows_the_total(small: Small) -> None:
    """One Adam step (first step: lr * sign of the gradient, nearly) down generation + beta * latent, beta included."""
    settings = small("vae", beta=3.0, lr=1e-3)
    networks, _ = built(settings)
    mean, log_variance = networks["encoder"](images()).chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=rng.generator(0, "noise"))
    decoded = networks["decoder"](mean + torch.exp(log_variance / 2) * noise)
    kl = -0.5 * (1 + log_variance - mean**2 - torch.exp(log_variance)).sum(1).mean()
    (F.mse_loss(decoded, images(), reduction="sum") / 6 + 3 * kl).backward()
    torch.optim.Adam([*networks["encoder"].parameters(), *networks["decoder"].parameters()], lr=1e-3).step()
    moved, losses = step(settings)
    for name, network in networks.items():
        for expected, found in zip(network.parameters(), moved[name].parameters(), strict=True):
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(losses["total"], losses["generation"] + 3 * losses["latent"])


def test_corrupt_adds_noise_of_the_stated_deviation() -> None:
    grey = torch.full((20, 1, 28, 28), 0.5)
    noisy = ae.corrupt(grey, rng.generator(0, "n"), 0.1)
    assert noisy.mean().item() == pytest.approx(0.5, abs=0.005)
    assert noisy.std().item() == pytest.approx(0.1, rel=0.03)
    strong = ae.corrupt(grey, rng.generator(0, "n"), 2.0)
    assert (strong.min().item(), strong.max().item()) == (0, 1)
    assert torch.equal(noisy, ae.corrupt(grey, rng.generator(0, "n"), 0.1))
    assert torch.equal(ae.corrupt(grey, rng.generator(0, "n"), 0.0), grey)


def test_a_denoising_autoencoder_is_held_to_the_clean_image(small: Small) -> None:
    settings = small("ae", noise=0.7)
    networks, _ = built(settings)
    clean = images()
    noisy = (clean + 0.7 * torch.randn(clean.shape, generator=rng.generator(0, "n"))).clamp(0, 1)
    guess = networks["decoder"](networks["encoder"](noisy))
    expected = F.mse_loss(guess, clean, reduction="none").flatten(1).sum(1)
    found = ae.heldout_losses(networks, clean, rng.generator(0, "n"), settings)["generation"]  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)


def test_reparameterized_codes_have_the_mean_and_variance() -> None:
    mean, log_variance = torch.tensor([[1.5, -2.0]]), torch.tensor([[math.log(0.25), math.log(9.0)]])
    codes = _shared.reparameterize(mean.expand(40_000, 2), log_variance.expand(40_000, 2), rng.generator(0, "n"))
    torch.testing.assert_close(codes.mean(0), mean[0], atol=0.06, rtol=0)
    torch.testing.assert_close(codes.var(0), torch.tensor([0.25, 9.0]), atol=0, rtol=0.03)


def test_gradients_pass_through_the_reparameterized_code() -> None:
    mean, log_variance = drawn(4, 3).requires_grad_(), drawn(4, 3, seed=1).requires_grad_()
    codes = _shared.reparameterize(mean, log_variance, rng.generator(0, "n"))
    codes.sum().backward()
    noise = torch.randn((4, 3), generator=rng.generator(0, "n"))
    torch.testing.assert_close(mean.grad, torch.ones(4, 3))
    torch.testing.assert_close(log_variance.grad, (0.5 * noise * (0.5 * log_variance).exp()).detach())


def test_a_vae_encodes_to_the_mean(small: Small) -> None:
    networks, _ = built(small("vae", latent_dim=4))
    mean, log_variance = vae.posterior(networks, images())
    raw = networks["encoder"](images())
    assert torch.equal(mean, raw[:, :4])
    assert torch.equal(log_variance, raw[:, 4:])
    assert torch.equal(vae.encode(networks, images()), mean)


@pytest.mark.parametrize("model", ["ae", "vae"])
def test_both_halves_of_an_autoencoder_move(model: str, small: Small) -> None:
    before, _ = built(small(model))
    after, _ = step(small(model))
    for name in ("encoder", "decoder"):
        assert not same(weights(before[name]), weights(after[name]))


def test_the_players_of_a_gan_have_widths_of_their_own(small: Small) -> None:
    networks, _ = built(small("gan", width=3, discriminator_width=5))
    last, first = networks["generator"].get_submodule("10"), networks["discriminator"].get_submodule("0")
    assert isinstance(last, nn.ConvTranspose2d)
    assert isinstance(first, nn.Conv2d)
    assert (last.in_channels, first.out_channels) == (3, 5)


def test_each_player_moves_only_its_own_weights(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    networks, optimizers = built(small("gan"))
    moves: list[tuple[str, set[str]]] = []

    def spied(player: str) -> Callable[..., Any]:
        original = optimizers[player].step

        def move(*args: Any, **kwargs: Any) -> None:
            before = {name: weights(network) for name, network in networks.items()}
            original(*args, **kwargs)
            moved = {name for name in networks if not same(before[name], weights(networks[name]))}
            moves.append((player, moved))

        return move

    for player in optimizers:
        monkeypatch.setattr(optimizers[player], "step", spied(player))
    at_start = {name: weights(network) for name, network in networks.items()}
    gan.train_step(networks, optimizers, images(), rng.generator(0, "n"), small("gan"))  # type: ignore[arg-type]
    assert moves == [("discriminator", {"discriminator"}), ("generator", {"generator"})]
    assert all(not same(at_start[name], weights(networks[name])) for name in networks)


def test_no_gradient_reaches_the_other_player(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    networks, optimizers = built(small("gan"))
    seen: dict[str, Any] = {}
    original = optimizers["discriminator"].step

    def step_of_d() -> None:
        seen["generator"] = [weight.grad for weight in networks["generator"].parameters()]
        seen["discriminator"] = [weight.grad.clone() for weight in networks["discriminator"].parameters()]  # type: ignore[union-attr]
        original()

    monkeypatch.setattr(optimizers["discriminator"], "step", step_of_d)
    gan.train_step(networks, optimizers, images(), rng.generator(0, "n"), small("gan"))  # type: ignore[arg-type]
    assert all(grad is None for grad in seen["generator"])  # nothing of D's error
    after = [weight.grad for weight in networks["discriminator"].parameters()]
    for before, now in zip(seen["discriminator"], after, strict=True):
        assert now is not None
        assert torch.equal(before, now)  # nothing of G's
    assert all(weight.requires_grad for weight in networks["discriminator"].parameters())
    assert all(weight.grad is not None for weight in networks["generator"].parameters())


def test_each_step_lowers_the_loss_of_its_player(small: Small) -> None:
    """Without dropout, on the same noise, after a small step; D's convincedness of the fakes rises with G's step."""
    settings = small("gan", dropout=0.0, lr=1e-4)
    networks, optimizers = built(settings)
    generator, discriminator = networks["generator"], networks["discriminator"]
    noise = torch.randn((6, settings.latent_dim), generator=rng.generator(0, "n"))
    real = 2 * images() - 1
    with torch.no_grad():
        fake = generator(noise)
        d_before = gan.discriminator_loss(discriminator(real), discriminator(fake), 1.0).mean()
    reported = gan.train_step(networks, optimizers, images(), rng.generator(0, "n"), settings)  # type: ignore[arg-type]
    torch.testing.assert_close(reported["discriminator"], d_before)
    with torch.no_grad():
        d_after = gan.discriminator_loss(discriminator(real), discriminator(fake), 1.0).mean()
        g_before, g_after = discriminator(fake).mean(), discriminator(generator(noise)).mean()
    assert d_after < d_before
    assert g_after > g_before


def test_a_gan_reports_probabilities_on_both_kinds(small: Small) -> None:
    settings = small("gan", dropout=0.0)
    networks, optimizers = built(settings)
    noise = torch.randn((6, settings.latent_dim), generator=rng.generator(0, "n"))
    with torch.no_grad():
        real = torch.sigmoid(networks["discriminator"](2 * images() - 1)).mean()
        fake = torch.sigmoid(networks["discriminator"](networks["generator"](noise))).mean()
    reported = gan.train_step(networks, optimizers, images(), rng.generator(0, "n"), settings)  # type: ignore[arg-type]
    torch.testing.assert_close(reported["d_real"], real)
    torch.testing.assert_close(reported["d_fake"], fake)


class Scripted(nn.Module):
    """A discriminator that says these logits, call by call, whatever it is shown."""

    def __init__(self, *logits: list[float]) -> None:
        super().__init__()
        self.logits = iter(logits)
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.tensor(next(self.logits)) + self.weight + 0 * pictures.sum()


def test_a_gan_reports_how_often_its_discriminator_is_right(small: Small) -> None:
    """Real images: logits above 0; generated ones: below. A logit of 0 says neither."""
    settings = small("gan")
    networks, _ = built(settings)
    real, fake = [2.0, -1.0, 0.0, 0.1, 5.0, -0.1], [-2.0, 1.0, 0.0, -0.1, 3.0, 0.1]
    networks["discriminator"] = Scripted(real, fake, fake)
    optimizers = {player: gan.optimizer(player, networks, settings) for player in gan.PLAYERS}  # type: ignore[arg-type]
    reported = gan.train_step(networks, optimizers, images(), rng.generator(0, "n"), settings)  # type: ignore[arg-type]
    assert reported["accuracy_real"].item() == pytest.approx(3 / 6)
    assert reported["accuracy_fake"].item() == pytest.approx(2 / 6)
    networks["discriminator"] = Scripted(real, fake)
    heldout = gan.heldout_losses(networks, images(), rng.generator(0, "n"), settings)  # type: ignore[arg-type]
    assert heldout["accuracy_real"].tolist() == [1, 0, 0, 1, 1, 0]
    assert heldout["accuracy_fake"].tolist() == [1, 0, 0, 1, 0, 0]


def test_only_gans_are_judged_while_they_train() -> None:
    assert [name for name in objectives.names() if objectives.judged(objectives.get(name))] == ["gan"]


@pytest.mark.parametrize("model", objectives.names())
def test_the_same_seed_gives_the_same_step(model: str, small: Small) -> None:
    first, second, third = (step(small(model), seed)[0] for seed in (1, 1, 2))
    assert all(same(weights(first[name]), weights(second[name])) for name in first)
    if model != "ae":  # without noise nothing is drawn
        assert not all(same(weights(first[name]), weights(third[name])) for name in first)
