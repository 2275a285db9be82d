"""The training loops that tutorials show, for `benchmarks.training` to compare with.

A Dataset gives one PIL image at a time, ToTensor turns it into a tensor, a DataLoader shuffles and collates; the loop
moves the weights by Adam and asks for the value of every loss at every step. Float32, contiguous memory, nothing
frozen. Networks and settings are genlib's, with torch's own layers; the losses are written here a second time, as
tutorials write them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import DataLoader, Dataset

from genlib.data.arrays import Images

Networks = Mapping[str, nn.Module]
Losses = dict[str, float]


class Pictures(Dataset[Tensor]):
    """Images uint8 N C H W, as PIL images through flip and ToTensor: float32 C H W in 0..1."""

    def __init__(self, images: Images, flip: bool) -> None:
        self.images, self.flip = images, flip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        pixels = self.images[index].transpose(1, 2, 0)
        picture = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
        if self.flip and torch.rand(1).item() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_tensor(picture)


def to_tensor(picture: Image.Image) -> Tensor:
    """A picture to float32 C H W in 0..1, as torchvision's ToTensor does."""
    pixels: NDArray[np.uint8] = np.array(picture, copy=True)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def endless(images: Images, batch_size: int, workers: int, flip: bool, pinned: bool = False) -> Iterator[Tensor]:
    """Epoch after epoch of shuffled batches, B C H W; `pinned`: in memory from which a GPU copies."""
    loader = DataLoader(
        Pictures(images, flip), batch_size, shuffle=True, num_workers=workers, drop_last=True, pin_memory=pinned
    )
    while True:
        yield from loader


def plain(networks: Networks) -> None:
    """Put torch's own layers in the place of genlib's variants of them, weights in torch's default order in memory.

    Activations are as torch has them by default: not in place.
    """
    for network in networks.values():
        network.to(memory_format=torch.contiguous_format)
        for layer in network.modules():
            for kind in (nn.Conv2d, nn.ConvTranspose2d, nn.Dropout):
                if isinstance(layer, kind):
                    layer.__class__ = kind
            if isinstance(layer, nn.ReLU | nn.LeakyReLU):
                layer.inplace = False


def train_ae(networks: Networks, batches: Iterable[Tensor], settings: Any, device: torch.device) -> Iterator[Losses]:
    """An autoencoder; a denoising one where `noise` is above 0."""
    encoder, decoder = networks["encoder"], networks["decoder"]
    optimizer = Adam([*encoder.parameters(), *decoder.parameters()], lr=settings.lr)
    for images in batches:
        x = images.to(device)
        optimizer.zero_grad()
        seen = (x + settings.noise * torch.randn_like(x)).clamp(0, 1) if settings.noise > 0 else x
        loss = F.mse_loss(decoder(encoder(seen)), x, reduction="sum") / len(x)
        loss.backward()
        optimizer.step()
        yield {"generation": loss.item()}


def train_vae(networks: Networks, batches: Iterable[Tensor], settings: Any, device: torch.device) -> Iterator[Losses]:
    """A variational autoencoder with a squared error."""
    encoder, decoder = networks["encoder"], networks["decoder"]
    optimizer = Adam([*encoder.parameters(), *decoder.parameters()], lr=settings.lr)
    for images in batches:
        x = images.to(device)
        optimizer.zero_grad()
        mu, logvar = encoder(x).chunk(2, dim=1)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        error = F.mse_loss(decoder(z), x, reduction="sum") / len(x)
        kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(x)
        loss = error + settings.beta * kld
        loss.backward()
        optimizer.step()
        yield {"generation": error.item(), "latent": kld.item(), "total": loss.item()}


def train_bernoulli_vae(
    networks: Networks, batches: Iterable[Tensor], settings: Any, device: torch.device
) -> Iterator[Losses]:
    """A variational autoencoder of images binarised at random, with a learning rate that falls."""
    encoder, decoder = networks["encoder"], networks["decoder"]
    optimizer = Adam([*encoder.parameters(), *decoder.parameters()], lr=settings.lr)
    scheduler = falling(optimizer, settings)
    for images in batches:
        grey = images.to(device)
        optimizer.zero_grad()
        x = (torch.rand_like(grey) < grey).float()
        mu, logvar = encoder(x).chunk(2, dim=1)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        error = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum") / len(x)
        kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(x)
        loss = error + kld
        loss.backward()
        optimizer.step()
        scheduler.step()
        yield {"generation": error.item(), "latent": kld.item(), "total": loss.item()}


def falling(optimizer: Adam, settings: Any) -> torch.optim.lr_scheduler.LRScheduler:
    """A learning rate that halves with every so many images, or stays."""
    halflife = settings.lr_halflife_images
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 ** (step * settings.batch_size / halflife) if halflife else 1.0
    )


def train_gan(networks: Networks, batches: Iterable[Tensor], settings: Any, device: torch.device) -> Iterator[Losses]:
    """A GAN: the discriminator on real and generated images, then the generator through the discriminator."""
    generator, discriminator = networks["generator"], networks["discriminator"]
    betas = (settings.beta1, 0.999)
    optimizer_d = Adam(discriminator.parameters(), lr=settings.lr, betas=betas)
    optimizer_g = Adam(generator.parameters(), lr=settings.lr, betas=betas)
    schedulers = [falling(each, settings) for each in (optimizer_d, optimizer_g)] if settings.lr_halflife_images else []
    criterion = nn.BCEWithLogitsLoss()
    for images in batches:
        x = images.to(device) * 2 - 1
        real, fake = torch.full((len(x),), settings.real_label, device=device), torch.zeros(len(x), device=device)
        generated = generator(torch.randn(len(x), settings.latent_dim, device=device))

        optimizer_d.zero_grad()
        of_real = discriminator(x)
        of_generated = discriminator(generated.detach())
        loss_d = criterion(of_real, real) + criterion(of_generated, fake)
        loss_d.backward()
        optimizer_d.step()

        optimizer_g.zero_grad()
        loss_g = criterion(discriminator(generated), torch.ones(len(x), device=device))
        loss_g.backward()
        optimizer_g.step()
        for scheduler in schedulers:
            scheduler.step()
        yield {
            "discriminator": loss_d.item(),
            "generator": loss_g.item(),
            "d_real": of_real.sigmoid().mean().item(),
            "d_fake": of_generated.sigmoid().mean().item(),
        }


TRAIN: Mapping[str, Callable[[Networks, Iterable[Tensor], Any, torch.device], Iterator[Losses]]] = {
    "ae": train_ae,
    "vae": train_vae,
    "bernoulli_vae": train_bernoulli_vae,
    "gan": train_gan,
}
"""The loop of each model: it moves the networks' weights, and yields the losses of each step."""
