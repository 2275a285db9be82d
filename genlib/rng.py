"""Randomness from (seed, purpose, epoch), never from global state that something else may have moved."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

import torch


def derive(seed: int, purpose: str, epoch: int = 0) -> int:
    """An independent 63-bit seed for each (seed, purpose, epoch)."""
    return int.from_bytes(sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, epoch: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one purpose."""
    return torch.Generator(device).manual_seed(derive(seed, purpose, epoch))


@contextmanager
def default_generators(seed: int, purpose: str, epoch: int = 0) -> Iterator[None]:
    """Seed torch's default generators inside the block, for what takes no generator (first weights, dropout).

    Of several GPUs, after it only the current one's is as before. One that is not in use yet is not taken into use.
    """
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        torch.manual_seed(derive(seed, purpose, epoch))
        yield


def latents(count: int, latent_dim: int, seed: int, purpose: str) -> torch.Tensor:
    """Codes drawn from N(0, I), count x latent_dim, float32 on the CPU: the same on every device."""
    return torch.randn(count, latent_dim, generator=generator(seed, purpose))
