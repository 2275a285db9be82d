"""The autoencoder: squared error, no noise in the code. With `noise` above 0 a denoising autoencoder.

Vincent et al. 2008: corrupt the input, reconstruct the clean image.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from genlib import nets
from genlib.objectives._shared import generation_loss
from genlib.settings import RunSettings

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn
    from torch.optim import Optimizer

    from genlib.objectives import Networks, Optimizers

LOSSES = ("generation",)
PLAYERS = {"autoencoder": ("encoder", "decoder")}
DRAWS = "decoder"


class Settings(RunSettings):
    """`noise`: standard deviation of the Gaussian noise on input pixels in 0..1. `output`: the last activation."""

    output: Literal["sigmoid", "relu"]
    noise: Annotated[float, Field(ge=0, le=2)]


def build(settings: Settings, shape: nets.Shape) -> "dict[str, nn.Module]":
    """Encoder B C H W to B Z, decoder B Z to B C H W in 0..1."""
    family = nets.get(settings.net)
    return {
        "encoder": family.encoder(shape, settings.width, outputs=settings.latent_dim),
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
    """One Adam step on the batch mean of the generation loss."""
    losses = {name: loss.mean() for name, loss in heldout_losses(networks, images, rng, settings).items()}
    optimizers["autoencoder"].zero_grad(set_to_none=True)
    losses["generation"].backward()
    optimizers["autoencoder"].step()
    return {name: loss.detach() for name, loss in losses.items()}


def heldout_losses(networks: "Networks", images: "Tensor", rng: "Generator", settings: Settings) -> "dict[str, Tensor]":
    """Generation loss of each image, reconstructed from its noisy version if `noise` is above 0."""
    reconstructions = networks["decoder"](networks["encoder"](corrupt(images, rng, settings.noise)))
    return {"generation": generation_loss(images, reconstructions)}


def corrupt(images: "Tensor", rng: "Generator", noise: float) -> "Tensor":
    """Images with Gaussian noise of that standard deviation added, clipped to 0..1 (B C H W)."""
    import torch

    if noise == 0:
        return images
    drawn = torch.randn(images.shape, generator=rng, device=images.device, dtype=images.dtype)
    return (images + noise * drawn).clamp(0, 1)


def encode(networks: "Networks", images: "Tensor") -> "Tensor":
    """Images B C H W to their codes B Z."""
    codes: Tensor = networks["encoder"](images)
    return codes


def fed(networks: "Networks", images: "Tensor", rng: "Generator", settings: Settings) -> "Tensor":
    """Codes of the images as training makes them, B Z."""
    return encode(networks, corrupt(images, rng, settings.noise))


def draw(networks: "Networks", latents: "Tensor") -> "Tensor":
    """Codes B Z to images B C H W in 0..1."""
    images: Tensor = networks["decoder"](latents).clamp(0, 1)
    return images


def preview(networks: "Networks", latents: "Tensor", images: "Tensor") -> "Tensor":
    """Reconstructions of held-out images: the autoencoder has no distribution of codes to draw from."""
    return draw(networks, encode(networks, images))
