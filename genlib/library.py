"""Trained models for notebooks and scripts: numpy arrays in, numpy arrays out.

Images are uint8 `N C H W`, codes float32 `N Z`; C, H, W and Z (`latent_dim`) are the model's.
"""

import math
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from genlib import models, objectives, rng
from genlib.data.arrays import Images
from genlib.errors import GenlibError
from genlib.figures import grids
from genlib.settings import RunSettings

Codes = NDArray[np.float32]
Checkpoint = models.Checkpoint

_CHANNELS = {1: "L", 3: "RGB"}
_DEEP = ("I", "F")  # modes of 16 or 32 bits a channel
_FAULTS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, as `load` gives it. `model`: the networks themselves, as `genlib.models` has them."""

    model: models.Model

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"<{self.run}: {self.settings.model} of {self.settings.dataset}, images {size}, Z = {self.latent_dim}>"

    @property
    def run(self) -> str:
        """The run's name in params.yaml."""
        return self.model.run

    @property
    def settings(self) -> RunSettings:
        """What it was trained with."""
        return self.model.settings

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H and W of its images."""
        return self.model.shape

    @property
    def latent_dim(self) -> int:
        """Numbers in a code."""
        return self.settings.latent_dim

    @property
    def encodes(self) -> bool:
        """Whether it turns images into codes, as autoencoders and VAEs do and GANs do not."""
        return hasattr(self.model.objective, "encode")

    @property
    def has_prior(self) -> bool:
        """Whether its codes are distributed as N(0, I), as a VAE's and a GAN's are and an autoencoder's are not."""
        return objectives.draws_from_prior(self.model.objective)

    def sample(self, count: int, seed: int = 0, checkpoint: Checkpoint = "last") -> Images:
        """`count` images decoded from N(0, I) codes; the same for the same seed.

        `checkpoint`: "last", or for a GAN "best", which had the lowest FID on validation images. GenlibError: there is
        no best one.
        """
        return self.model.sample(_positive("count", count), seed, checkpoint=checkpoint).numpy()

    def random_codes(self, count: int, seed: int = 0) -> Codes:
        """`count` codes drawn from N(0, I); the same for the same seed, and not those of `sample`."""
        return np.asarray(rng.latents(_positive("count", count), self.latent_dim, seed, "random codes"))

    def decode(self, codes: Codes, checkpoint: Checkpoint = "last") -> Images:
        """Codes to images. GenlibError: codes of another shape."""
        given = np.asarray(codes, np.float32)
        if given.ndim != 2 or given.shape[1] != self.latent_dim:
            raise GenlibError(f"codes: {given.shape} are not N x {self.latent_dim}, which {self.run} decodes")
        return self.model.decode(torch.from_numpy(given), checkpoint=checkpoint).numpy()

    def encode(self, images: Images) -> Codes:
        """Images to codes; a VAE's are the means of its posterior.

        A model of binary images is given images binarised at random, with its own seed.

        Raises:
            GenlibError: the model does not encode, or takes images of another shape.
        """
        self._must_encode()
        given = np.require(images, requirements=["C", "W"])  # torch warns of arrays that are read-only
        if given.dtype != np.uint8 or given.shape[1:] != self.shape:
            wanted = " ".join(map(str, self.shape))
            raise GenlibError(
                f"images: {given.dtype} {given.shape} are not uint8 N {wanted}, which {self.run} encodes; "
                "prepare() makes them of pictures"
            )
        return np.asarray(self.model.encode(self.model.observed(given)))

    def reconstruct(self, images: Images) -> Images:
        """Images encoded and decoded again. GenlibError: as `encode`."""
        return self.decode(self.encode(images))

    def interpolate(self, start: Codes, end: Codes, steps: int = 10) -> Images:
        """Images between pairs of codes: `steps` for each pair, both ends included, N * steps C H W, pair after pair.

        Decoded from codes on the straight line between `start` (N Z) and `end` (N Z).
        """
        one, other = (np.asarray(codes, np.float32) for codes in (start, end))
        if one.shape != other.shape or one.ndim != 2:
            raise GenlibError(f"interpolate: start {one.shape} and end {other.shape} are not both N x Z, of equal N")
        weights = np.linspace(0, 1, _positive("steps", steps), dtype=np.float32)[None, :, None]
        between = one[:, None] + weights * (other - one)[:, None]
        return self.decode(between.reshape(-1, one.shape[1]))

    def prepare(self, picture: "str | os.PathLike[str] | Image.Image") -> Images:
        """Any picture as an image of this model, uint8 1 C H W: its central square, resized as in preprocessing.

        Upright as its camera held it; what is transparent becomes white.

        Raises:
            GenlibError: a file that is missing or no picture, or one of more than 8 bits a channel, or too large.
        """
        if isinstance(picture, Image.Image):
            return self._prepared(picture, "picture")
        path = Path(picture)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is large is read all the same
                with Image.open(path) as opened:
                    return self._prepared(opened, str(path))
        except FileNotFoundError as error:
            raise GenlibError(f"{path}: no such picture; name a file such as photo.jpg") from error
        except Image.DecompressionBombError as error:
            raise GenlibError(f"{path}: {str(error).partition(',')[0]}; make it smaller") from error
        except _FAULTS as error:
            raise GenlibError(f"{path}: not a picture that can be read ({error}); give it as JPEG or PNG") from error

    def _prepared(self, picture: Image.Image, name: str) -> Images:
        channels, size, _ = self.shape
        if picture.mode.partition(";")[0] in _DEEP:  # Pillow would cut their values off at 255
            raise GenlibError(f"{name}: has colours of mode {picture.mode}: save it with 8 bits a channel")
        upright = ImageOps.exif_transpose(picture).convert("RGBA")
        solid = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert(_CHANNELS[channels])
        side = min(solid.size)
        left, upper = (solid.width - side) // 2, (solid.height - side) // 2
        # Cropped first, and not as resize's box: its filter would see beyond the edges of the box.
        square = solid.crop((left, upper, left + side, upper + side))
        if side != size:
            square = square.resize((size, size), Image.Resampling.LANCZOS)
        array = np.array(square)
        return array[None, None] if channels == 1 else array.transpose(2, 0, 1)[None]

    def _must_encode(self) -> None:
        if not self.encodes:
            raise GenlibError(
                f"{self.run}: a {self.settings.model} draws images and encodes none; "
                "take a run whose model encodes (ae, vae, bernoulli_vae)"
            )


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> TrainedModel:
    """Read a model file, such as runs/demo/digits-gan/model.safetensors. Nothing in it is executed.

    Args:
        path: the file that the train stage wrote.
        device: where to compute: "cpu", "cuda", "cuda:1". What comes out is on the CPU.

    Raises:
        GenlibError: the file is missing, damaged or not a model of genlib, or there is no such device.
    """
    try:
        on = torch.device(device)
    except RuntimeError as error:
        raise GenlibError(f"device: {device!r} is none; give cpu, cuda or cuda:1") from error
    if on.type not in ("cpu", "cuda") or (on.type == "cuda" and (on.index or 0) >= torch.cuda.device_count()):
        raise GenlibError(f"device: {device!r}: torch sees {torch.cuda.device_count()} CUDA devices; give cpu")
    return TrainedModel(models.load(Path(path), on))


def grid(images: Images, columns: int | None = None, scale: int | None = None) -> Image.Image:
    """Images as one picture, row by row; a notebook shows it.

    Args:
        images: uint8 `N C H W`, C = 1 or 3.
        columns: images a row; None: as many as rows, or one more.
        scale: each pixel becomes `scale` x `scale` pixels; None: 2, or 1 where that would be too wide for a screen.

    Raises:
        GenlibError: another shape or type of array, no images, or numbers out of range.
    """
    across = math.ceil(math.sqrt(len(images))) if columns is None else columns
    return grids.grid(images, across, grids.fitting_scale(images.shape[-1], across) if scale is None else scale)


def _positive(name: str, number: int) -> int:
    if number < 1:
        raise GenlibError(f"{name}: {number} is less than 1; give 1 or more")
    return number
