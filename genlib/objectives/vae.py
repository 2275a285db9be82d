"""The variational autoencoder (Kingma & Welling 2013): generation loss + beta * latent loss.

`beta` weighs the latent loss (Higgins et al. 2017). Minimising E[squared error] + beta * KL is maximising the ELBO of a
Gaussian likelihood with variance beta / 2 for each pixel.
"""

import math
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from genlib import nets
from genlib.objectives import _shared
from genlib.objectives._shared import generation_loss, latent_loss, reparameterize
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
    """`beta`: weight of the latent loss. `output`: the last activation (the presentation says relu)."""

    output: Literal["sigmoid", "relu"]
    beta: PositiveFloat


def build(settings: Settings, shape: nets.Shape) -> "dict[str, nn.Module]":
    """Encoder B C H W to B 2Z (mean, log-variance), decoder B Z to B C H W."""
    family = nets.get(settings.net)
    return {
        "encoder": family.encoder(shape, settings.width, outputs=2 * settings.latent_dim),
        "decoder": family.decoder(shape, settings.width, settings.latent_dim, settings.output),
    }


def optimizer(player: str, networks: "Networks", settings: Settings) -> "Optimizer":
    """Adam on both networks."""
    from genlib.adam import Adam

    weights = [weight for name in PLAYERS[player] for weight in networks[name].parameters()]
    on_gpu = weights[0].is_cuda
    return Adam(weights, lr=settings.lr, fused=on_gpu, capturable=on_gpu)


def train_step(
    networks: "Networks", optimizers: "Optimizers", images: "Tensor", rng: "Generator", settings: Settings
) -> "dict[str, Tensor]":
    """One Adam step on the batch mean of generation + beta * latent, by the reparameterization trick."""
    losses = {name: loss.mean() for name, loss in heldout_losses(networks, images, rng, settings).items()}
    optimizers["autoencoder"].zero_grad(set_to_none=True)
    losses["total"].backward()
    optimizers["autoencoder"].step()
    return {name: loss.detach() for name, loss in losses.items()}


def heldout_losses(networks: "Networks", images: "Tensor", rng: "Generator", settings: Settings) -> "dict[str, Tensor]":
    """Generation, latent and total loss of each image, with one code drawn from its posterior."""
    mean, log_variance = posterior(networks, images)
    reconstructions = networks["decoder"](reparameterize(mean, log_variance, rng))
    generation = generation_loss(images, reconstructions)
    latent = latent_loss(mean, log_variance)
    return {"generation": generation, "latent": latent, "total": generation + settings.beta * latent}


def likelihood(settings: Settings) -> str:
    """The distribution of an image given its code, in words."""
    return f"Gaussian, variance {settings.beta / 2:g} per pixel in 0..1"


def log_likelihood(networks: "Networks", images: "Tensor", codes: "Tensor", settings: Settings) -> "Tensor":
    """log p(image | code) in nats, constants included: images B C H W in 0..1 and codes B Z to B.

    N(reconstruction, beta / 2) for each pixel: a density, so it may be positive. The ELBO is its mean over the codes of
    an image, less the latent loss.
    """
    constant = 0.5 * images[0].numel() * math.log(math.pi * settings.beta)
    return -generation_loss(images, networks["decoder"](codes)) / settings.beta - constant


def fed(networks: "Networks", images: "Tensor", rng: "Generator", settings: Settings) -> "Tensor":
    """Codes drawn from the images' posteriors, B Z."""
    return reparameterize(*posterior(networks, images), rng)


def draw(networks: "Networks", latents: "Tensor") -> "Tensor":
    """Codes B Z to images B C H W in 0..1."""
    images: Tensor = networks["decoder"](latents).clamp(0, 1)
    return images


def preview(networks: "Networks", latents: "Tensor", images: "Tensor") -> "Tensor":
    """Images drawn from the prior's codes."""
    return draw(networks, latents)
