"""Nearest training images of generated ones: does a model draw, or does it remember? Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genlib.errors import GenlibError
from genlib.figures.grids import LINE, PAGE_WIDTH, Pixels, beside, captioned, fitting_scale, grid, white, write_text

_CHUNK_BYTES = 64 << 20
_GAP = 16


@dataclass(frozen=True)
class Nearest:
    """For Q images their K nearest ones, nearest first; of equally near ones the earlier.

    `indices`: int64 Q K. `mirrored`: bool Q K, whether the mirrored image is the nearer. `distances`: float64 Q K, root
    mean square differences of pixels in 0..1.
    """

    indices: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    distances: NDArray[np.float64]


def nearest(queries: Pixels, images: Pixels, count: int, mirror: bool) -> Nearest:
    """The `count` images nearest to each query by mean squared pixel difference; each image is counted once.

    Memory is bounded whatever the number of images, which may be memory-mapped. Pixels are whole numbers, so that
    |a|^2 + |b|^2 - 2ab is exact in float64: the answer does not depend on chunks, threads or the order of sums.

    Args:
        queries: uint8 `Q C H W`.
        images: uint8 `N C H W`.
        count: at most N.
        mirror: hold each image mirrored left to right against the queries, too.

    Raises:
        GenlibError: shapes that differ, or a count that is not in 1..N.
    """
    if queries.shape[1:] != images.shape[1:] or not 1 <= count <= len(images):
        raise GenlibError(
            f"neighbours: {count} of images {images.shape} for {queries.shape}; "
            "give images of one shape and ask for no more than there are"
        )
    as_is = _squared_distances(queries, images)
    # A query and a mirrored image are as far apart as the mirrored query and the image.
    turned = _squared_distances(queries[..., ::-1], images) if mirror else as_is
    squared = np.minimum(as_is, turned)
    order = np.argsort(squared, axis=1, kind="stable")[:, :count]
    mean = np.take_along_axis(squared, order, axis=1) / queries[0].size
    mirrored = np.take_along_axis(turned < as_is, order, axis=1)
    return Nearest(order, mirrored, np.sqrt(mean) / 255)


def neighbours(samples: Pixels, images: Pixels, found: Nearest) -> Image.Image:
    """Each sample followed by its nearest training images (mirrored where that is nearer), distances under them.

    Args:
        samples: uint8 `Q C H W`.
        images: the training images, uint8 `N C H W`.
        found: what `nearest` found for them.
    """
    columns = 1 + found.indices.shape[1]
    scale = fitting_scale(samples.shape[-1], columns)
    lines = [_line(sample, images, found, index, scale) for index, sample in enumerate(samples)]
    blocks = 2 if len(lines) % 2 == 0 and 2 * lines[0].width + 2 * _GAP <= PAGE_WIDTH else 1
    height = len(lines) // blocks
    first = scale * samples.shape[-1] + 2
    parts = [_block(lines[start : start + height], first) for start in range(0, len(lines), height)]
    return beside(parts, gap=2 * _GAP)


def _line(sample: Pixels, images: Pixels, found: Nearest, index: int, scale: int) -> Image.Image:
    cells = [captioned(grid(sample[None], 1, scale), "")]
    described = zip(found.indices[index], found.mirrored[index], found.distances[index], strict=True)
    for at, mirrored, distance in described:
        image = np.array(images[at])
        shown = image[..., ::-1] if mirrored else image
        cells.append(captioned(grid(shown[None], 1, scale), f"{distance:.3f}"))
    return beside([cells[0], beside(cells[1:], gap=0)], gap=_GAP)


def _block(lines: Sequence[Image.Image], first: int) -> Image.Image:
    """Lines below each other, under the headings of their columns; `first` is the width of the sample's."""
    mode, width = lines[0].mode, lines[0].width
    canvas = Image.new(mode, (width, LINE + sum(line.height for line in lines)), white(mode))
    write_text(canvas, "sample", (first // 2, LINE // 2), anchor="mm")
    write_text(canvas, "nearest training images", (first + _GAP, LINE // 2), anchor="lm")
    top = LINE
    for line in lines:
        canvas.paste(line, (0, top))
        top += line.height
    return canvas


def _squared_distances(queries: Pixels, images: Pixels) -> NDArray[np.float64]:
    """Sums of squared differences of pixels in 0..255, Q N."""
    flat = queries.reshape(len(queries), -1).astype(np.float64)
    step = max(1, _CHUNK_BYTES // (8 * flat.shape[1]))
    parts = []
    for start in range(0, len(images), step):
        chunk = images[start : start + step].reshape(-1, flat.shape[1]).astype(np.float64)
        parts.append(np.square(chunk).sum(1) - 2 * (flat @ chunk.T))
    squared: NDArray[np.float64] = np.concatenate(parts, axis=1) + np.square(flat).sum(1)[:, None]
    return squared
