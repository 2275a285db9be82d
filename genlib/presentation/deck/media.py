"""Moving pictures for the deck: the frames of a run's training as data URIs."""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence, UnidentifiedImageError
from safetensors import SafetensorError, safe_open

from genlib.errors import GenlibError
from genlib.figures.animation import LARGE_IMAGES, seen_captions
from genlib.figures.grids import grid

_LARGE_SIDE = 48
_SMALL_IMAGES = 25
_LOSSLESS: dict[str, Any] = {"lossless": True, "quality": 60, "method": 4}
_LOSSY: dict[str, Any] = {"quality": 80, "method": 4}

Frames = tuple[list[str], list[str], tuple[int, int]]
"""Data URIs, captions, and width and height in pixels."""


def read_progress(path: Path, run: str) -> dict[str, NDArray[Any]]:
    """What training recorded on its way: `images_seen` F, `samples` uint8 F N C H W, `codes` F M 2 if there are any.

    Raises GenlibError if the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError) as error:
        raise GenlibError(f"{path}: cannot be read ({error}); delete it and run dvc repro train@{run}") from error
    if found.get("samples", np.empty(0)).ndim != 5 or len(found["samples"]) != len(found.get("images_seen", ())):
        raise GenlibError(f"{path}: no pictures of the progress in it; delete it and run dvc repro train@{run}")
    return found


def progress_frames(progress: dict[str, NDArray[Any]]) -> Frames:
    """Grids of what the same codes, or images, became; fewer images where they are large."""
    samples = progress["samples"]
    large = samples.shape[-1] >= _LARGE_SIDE
    samples = samples[:, : LARGE_IMAGES if large else _SMALL_IMAGES]
    columns = max(1, round(samples.shape[1] ** 0.5))
    pictures = [grid(images, columns, scale=1) for images in samples]
    return _frames(pictures, seen_captions(progress["images_seen"].tolist()), _LOSSY if large else _LOSSLESS)


def gif_frames(path: Path, captions: Sequence[str]) -> Frames:
    """The frames of an animated GIF of plots. GenlibError if it is none, or has another number of frames."""
    try:
        with Image.open(path) as image:
            pictures = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise GenlibError(f"{path}: not a picture ({error}); delete it and run dvc repro") from error
    if len(pictures) != len(captions):
        raise GenlibError(f"{path}: {len(pictures)} frames for {len(captions)} moments; delete it and run dvc repro")
    return _frames(pictures, captions, _LOSSLESS)


def _frames(pictures: Sequence[Image.Image], captions: Sequence[str], options: dict[str, Any]) -> Frames:
    return [_uri(picture, options) for picture in pictures], list(captions), pictures[-1].size


def _uri(picture: Image.Image, options: dict[str, Any]) -> str:
    buffer = BytesIO()
    picture.save(buffer, format="WEBP", **options)
    return f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode('ascii')}"
