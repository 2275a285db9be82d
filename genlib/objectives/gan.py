"""The generative adversarial network (Goodfellow et al. 2014): binary cross-entropy, non-saturating generator loss.

The players alternate: the discriminator moves while the generator is held constant, then the other way round.
Networks work on pixels in -1..1.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from genlib import nets
from genlib.objectives._shared import lower_rate, wide
from genlib.settings import RunSettings

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn
    from torch.optim import Optimizer

    from genlib.objectives import Networks, Optimizers

LOSSES = ("discriminator", "generator", "d_real", "d_fake", "accuracy_real", "accuracy_fake")
PLAYERS = {"discriminator": ("discriminator",), "generator": ("generator",)}
DRAWS = "generator"
JUDGED = True


class Settings(RunSettings):
    """`real_label`: the discriminator's target on real images; below 1 it is one-sided smoothing (Salimans 2016).

    `width` is the generator's, `discriminator_width` the discriminator's. `lr`: of both players' first step;
    `lr_halflife_images`: it halves with every so many training images; None: it stays.
    """

    discriminator_width: Annotated[int, Field(ge=1, le=1024)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    leaky_slope: Annotated[float, Field(ge=0, lt=1)]
    real_label: Annotated[float, Field(gt=0.5, le=1)]
    beta1: Annotated[float, Field(ge=0, lt=1)]
    lr_halflife_images: PositiveFloat | None


def build(settings: Settings, shape: nets.Shape) -> "dict[str, nn.Module]":
    """Generator B Z to B C H W in -1..1, discriminator B C H W to logits B."""
    family = nets.get(settings.net)
    return {
        "generator": family.generator(shape, settings.width, settings.latent_dim, settings.leaky_slope),
        "discriminator": family.discriminator(
            shape, settings.discriminator_width, settings.leaky_slope, settings.dropout
        ),
    }


def optimizer(player: str, networks: "Networks", settings: Settings) -> "Optimizer":
    """Adam on one player's weights."""
    from genlib.adam import Adam

    weights = list(networks[player].parameters())
    on_gpu = weights[0].is_cuda
    return Adam(weights, lr=settings.lr, betas=(settings.beta1, 0.999), fused=on_gpu, capturable=on_gpu)


def discriminator_loss(real_logits: "Tensor", fake_logits: "Tensor", real_label: float) -> "Tensor":
    """Binary cross-entropy of real images against `real_label` plus that of generated ones against 0: B and B to B.

    Goodfellow et al. 2014, equation 1, negated. With x a logit, -log sigmoid(x) = softplus(-x).
    """
    from torch.nn.functional import softplus

    real = real_label * softplus(-real_logits) + (1 - real_label) * softplus(real_logits)
    return real + softplus(fake_logits)


def generator_loss(fake_logits: "Tensor") -> "Tensor":
    """Binary cross-entropy of generated images against the label 1, the non-saturating loss: B to B.

    Goodfellow et al. 2014, section 3: maximise log D(G(z)).
    """
    from torch.nn.functional import softplus

    return softplus(-fake_logits)


def train_step(
    networks: "Networks", optimizers: "Optimizers", images: "Tensor", rng: "Generator", settings: Settings
) -> "dict[str, Tensor]":
    """The discriminator's step, then the generator's, on the same generated batch."""
    generator, discriminator = networks["generator"], networks["discriminator"]
    real = 2 * images - 1
    fake = generator(_noise(images, rng, settings))

    # The discriminator moves; detached, the generated batch carries no gradient to the generator.
    real_logits = wide(discriminator(real))
    fake_logits = wide(discriminator(fake.detach()))
    loss_d = discriminator_loss(real_logits, fake_logits, settings.real_label).mean()
    optimizers["discriminator"].zero_grad(set_to_none=True)
    loss_d.backward()
    lower_rate(optimizers["discriminator"], settings)
    optimizers["discriminator"].step()

    # The generator moves; the error passes through the discriminator, whose weights take no gradient.
    discriminator.requires_grad_(False)
    loss_g = generator_loss(wide(discriminator(fake))).mean()
    optimizers["generator"].zero_grad(set_to_none=True)
    loss_g.backward()
    lower_rate(optimizers["generator"], settings)
    optimizers["generator"].step()
    discriminator.requires_grad_(True)

    return {
        "discriminator": loss_d.detach(),
        "generator": loss_g.detach(),
        "d_real": real_logits.detach().sigmoid().mean(),
        "d_fake": fake_logits.detach().sigmoid().mean(),
        "accuracy_real": (real_logits.detach() > 0).float().mean(),
        "accuracy_fake": (fake_logits.detach() < 0).float().mean(),
    }


def heldout_losses(networks: "Networks", images: "Tensor", rng: "Generator", settings: Settings) -> "dict[str, Tensor]":
    """Both players' losses, D(x) and D(G(z)) as probabilities, and whether D is right (0 or 1) about each image.

    On held-out images and as many generated ones.
    """
    real_logits = networks["discriminator"](2 * images - 1)
    fake_logits = networks["discriminator"](networks["generator"](_noise(images, rng, settings)))
    return {
        "discriminator": discriminator_loss(real_logits, fake_logits, settings.real_label),
        "generator": generator_loss(fake_logits),
        "d_real": real_logits.sigmoid(),
        "d_fake": fake_logits.sigmoid(),
        "accuracy_real": (real_logits > 0).float(),
        "accuracy_fake": (fake_logits < 0).float(),
    }


def fed(networks: "Networks", images: "Tensor", rng: "Generator", settings: Settings) -> "Tensor":
    """Noise, a row for each image, B Z."""
    return _noise(images, rng, settings)


def draw(networks: "Networks", latents: "Tensor") -> "Tensor":
    """Noise B Z to images B C H W in 0..1."""
    images: Tensor = (networks["generator"](latents) + 1) / 2
    return images


def preview(networks: "Networks", latents: "Tensor", images: "Tensor") -> "Tensor":
    """Images drawn from `latents`."""
    return draw(networks, latents)


def _noise(images: "Tensor", rng: "Generator", settings: Settings) -> "Tensor":
    import torch

    size = (len(images), settings.latent_dim)
    return torch.randn(size, generator=rng, device=images.device, dtype=images.dtype)
