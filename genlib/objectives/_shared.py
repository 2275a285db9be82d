"""What several objectives share: losses of an image, and the Gaussian posterior of a code.

Losses are one value per image, summed over what an image has; the batch mean is taken by the caller.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.optim import Optimizer

    from genlib.objectives import Networks


class Falling(Protocol):
    """Settings of a learning rate that falls as training goes on."""

    @property
    def batch_size(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def lr_halflife_images(self) -> float | None: ...


def generation_loss(images: "Tensor", reconstructions: "Tensor") -> "Tensor":
    """Squared error summed over pixels and channels: B C H W and B C H W in 0..1 to B.

    Up to a constant this is -log N(image | reconstruction, variance 1/2): log N = -error / (2 * 1/2) - D/2 log(pi)
    with D = C H W. Summed, not averaged over pixels: an average would weaken it by the factor D against the latent
    loss and the code would collapse.
    """
    from torch.nn.functional import mse_loss

    return mse_loss(reconstructions, images, reduction="none").flatten(1).sum(1)


def latent_loss(mean: "Tensor", log_variance: "Tensor") -> "Tensor":
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats, summed over Z: B Z and B Z to B.

    Kingma & Welling 2013, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1)


def wide(values: "Tensor") -> "Tensor":
    """What a network in bf16 says, in float32; float32 and float64 as they are.

    A loss of bf16 would have three digits. On CUDA, autocast widens what losses compute by itself, on CPUs not.
    """
    import torch

    return values.to(torch.promote_types(values.dtype, torch.float32))


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


def learning_rate(images_seen: "float | Tensor", settings: Falling) -> "float | Tensor":
    """That of the step after `images_seen` training images; of a tensor a tensor.

    It is `lr` at first and halves with every `lr_halflife_images` images; None: it stays.
    """
    if settings.lr_halflife_images is None:
        return settings.lr
    rate: float | Tensor = settings.lr * 0.5 ** (images_seen / settings.lr_halflife_images)
    return rate


def lower_rate(adam: "Optimizer", settings: Falling) -> None:
    """Give `adam` the learning rate of its next step."""
    if settings.lr_halflife_images is None:
        return
    rate = learning_rate(_steps(adam) * settings.batch_size, settings)
    for group in adam.param_groups:
        group["lr"] = rate


def _steps(adam: "Optimizer") -> "float | Tensor":
    """Steps taken so far: Adam counts them in its state, so that a resumed training goes on where it was.

    A GPU's count stays on it: to read it is to wait for it, and in a graph of the step a number would not change.
    """
    state = adam.state.get(adam.param_groups[0]["params"][0])
    if not state:
        return 0.0
    count: Tensor = state["step"]
    return count if count.is_cuda else float(count)
