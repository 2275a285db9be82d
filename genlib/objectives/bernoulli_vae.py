"""The variational autoencoder of binary images: a Bernoulli likelihood for each pixel (Kingma & Welling 2013, app. C).

Grey images are binarised: a pixel is 1 with the probability that is its grey value, drawn anew at every step
(Salakhutdinov & Murray 2008, Burda et al. 2016). The total loss is the negative ELBO in nats, nothing left out: so it
can be compared with published numbers, which a beta would not allow. The learning rate falls as training goes on, in
place of the steps in which published schedules lower it.
"""

from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from genlib import nets
from genlib.objectives import _shared
from genlib.objectives._shared import latent_loss, lower_rate, reparameterize
from genlib.settings import RunSettings

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn
    from torch.optim import Optimizer

    from genlib.objectives import Networks, Optimizers

LOSSES = ("generation", "latent", "total")
PLAYERS = {"autoencoder": ("encoder", "decoder")}
DRAWS = "decoder"

posterior = _shared.posterior
encode = _shared.encode


class Settings(RunSettings):
    """`lr`: of the first step. `lr_halflife_images`: it halves with every so many training images; None: it stays."""

    lr_halflife_images: PositiveFloat | None


def build(settings: Settings, shape: nets.Shape) -> "dict[str, nn.Module]":
    """Encoder B C H W to B 2Z (mean, log-variance), decoder B Z to logits B C H W."""
    family = nets.get(settings.net)
    return {
        "encoder": family.encoder(shape, settings.width, outputs=2 * settings.latent_dim),
        "decoder": family.decoder(shape, settings.width, settings.latent_dim, "logits"),
    }


def optimizer(player: str, networks: "Networks", settings: Settings) -> "Optimizer":
    """Adam on both networks; fused, since the rest of a step is so short that it would take a sixth of the time."""
    from genlib.adam import Adam

    weights = [weight for name in PLAYERS[player] for weight in networks[name].parameters()]
    return Adam(weights, lr=settings.lr, fused=True, capturable=weights[0].is_cuda)


def train_step(
    networks: "Networks", optimizers: "Optimizers", images: "Tensor", rng: "Generator", settings: Settings
) -> "dict[str, Tensor]":
    """One Adam step on the batch mean of generation + latent, by the reparameterization trick."""
    adam = optimizers["autoencoder"]
    losses = {name: loss.mean() for name, loss in heldout_losses(networks, images, rng, settings).items()}
    adam.zero_grad(set_to_none=True)
    losses["total"].backward()
    lower_rate(adam, settings)
    adam.step()
    return {name: loss.detach() for name, loss in losses.items()}


def heldout_losses(networks: "Networks", images: "Tensor", rng: "Generator", settings: Settings) -> "dict[str, Tensor]":
    """Generation, latent and total loss of each image binarised, with one code drawn from its posterior."""
    binary = observe(images, rng)
    mean, log_variance = posterior(networks, binary)
    generation = -log_likelihood(networks, binary, reparameterize(mean, log_variance, rng), settings)
    latent = latent_loss(mean, log_variance)
    return {"generation": generation, "latent": latent, "total": generation + latent}


def observe(images: "Tensor", rng: "Generator") -> "Tensor":
    """Images B C H W in 0..1 binarised: each pixel 1 with the probability that is its value. Binary ones stay."""
    import torch

    # torch.bernoulli draws the same distribution, four times as slowly.
    return (torch.rand(images.shape, generator=rng, device=images.device) < images).to(images.dtype)


def likelihood(settings: Settings) -> str:
    """The distribution of an image given its code, in words."""
    del settings
    return "Bernoulli, pixels binarised at random by their grey value"


def log_likelihood(networks: "Networks", images: "Tensor", codes: "Tensor", settings: Settings) -> "Tensor":
    """log p(image | code) in nats: binary images B C H W and codes B Z to B. A probability, so it is never positive."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    del settings
    logits = networks["decoder"](codes)
    return -binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(1)


def fed(networks: "Networks", images: "Tensor", rng: "Generator", settings: Settings) -> "Tensor":
    """Codes drawn from the posteriors of the images binarised, B Z."""
    del settings
    return reparameterize(*posterior(networks, observe(images, rng)), rng)


def draw(networks: "Networks", latents: "Tensor") -> "Tensor":
    """Codes B Z to the probabilities of pixels, B C H W in 0..1."""
    probabilities: Tensor = networks["decoder"](latents).sigmoid()
    return probabilities


def preview(networks: "Networks", latents: "Tensor", images: "Tensor") -> "Tensor":
    """Probabilities of pixels for the prior's codes."""
    return draw(networks, latents)
