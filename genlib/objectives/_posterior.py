"""What the variational autoencoders share: the Gaussian posterior of a code, and draws from it."""

from typing import TYPE_CHECKING

from genlib.objectives._losses import wide

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from genlib.objectives import Networks


def posterior(networks: "Networks", images: "Tensor") -> "tuple[Tensor, Tensor]":
    """Images B C H W to mean and log-variance of their codes, B Z each."""
    mean, log_variance = wide(networks["encoder"](images)).chunk(2, dim=1)
    return mean, log_variance


def reparameterize(mean: "Tensor", log_variance: "Tensor", rng: "Generator") -> "Tensor":
    """A code drawn as mean + deviation * noise, so that gradients reach both (Kingma & Welling 2013, section 2.4)."""
    import torch

    noise = torch.randn(mean.shape, generator=rng, device=mean.device, dtype=mean.dtype)
    return mean + (0.5 * log_variance).exp() * noise


def encode(networks: "Networks", images: "Tensor") -> "Tensor":
    """Images B C H W to the means of their codes, B Z."""
    return posterior(networks, images)[0]
