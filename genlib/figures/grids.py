"""Grids of images as Pillow pictures: plain, and with a label beside each row. Needs neither torch nor matplotlib."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from genlib.errors import GenlibError
from genlib.files import write_bytes

Pixels = NDArray[np.uint8]

TEXT_SIZE = 14
PAGE_WIDTH = 1300
"""Pixels; wider pictures are shrunk by most screens, which blurs them."""
_WHITE, _INK = 255, 40
_MARGIN = 6
LINE = TEXT_SIZE + 2 * _MARGIN
"""Height in pixels of a line of text with its margins."""


def fitting_scale(width: int, columns: int) -> int:
    """2, or 1 where `columns` images of `width` pixels drawn twice as large would be wider than `PAGE_WIDTH`."""
    return 2 if columns * (2 * width + 1) + 1 <= PAGE_WIDTH else 1


def grid(images: Pixels, columns: int, scale: int = 2, pad: int = 1) -> Image.Image:
    """Lay images out row by row on white.

    Args:
        images: uint8 `N C H W`, C = 1 (grey) or 3 (RGB), N >= 1.
        columns: images per row; the last row may be shorter.
        scale: each pixel becomes `scale` x `scale` pixels (nearest neighbour: nothing is smoothed).
        pad: white pixels between images and around the grid.

    Returns:
        A picture of mode "L" or "RGB".

    Raises:
        GenlibError: wrong dtype or shape, no images, or `columns`, `scale` or `pad` out of range.
    """
    _check(images)
    if columns < 1 or scale < 1 or pad < 0:
        raise GenlibError(
            f"grid: columns={columns}, scale={scale}, pad={pad}; columns and scale must be at least 1, pad at least 0"
        )
    count, channels, height, width = images.shape
    lines = -(-count // columns)
    tiles = images.repeat(scale, axis=2).repeat(scale, axis=3)
    down, across = height * scale + pad, width * scale + pad
    canvas = np.full((lines * down + pad, columns * across + pad, channels), _WHITE, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        top, left = pad + index // columns * down, pad + index % columns * across
        canvas[top : top + height * scale, left : left + width * scale] = tile.transpose(1, 2, 0)
    return Image.fromarray(canvas[:, :, 0] if channels == 1 else canvas)


def rows(
    labelled: Sequence[tuple[str, Pixels]], scale: int = 2, pad: int = 1, headings: Sequence[str] = ()
) -> Image.Image:
    """Stack rows of images, each with its label on the left.

    Args:
        labelled: (label, uint8 `N C H W`) from top to bottom; an empty label leaves its place blank. All rows have
            the same shape.
        scale: as in `grid`.
        pad: as in `grid`.
        headings: what stands above the columns, one text for each; none leaves no place for them.

    Raises:
        GenlibError: no rows, rows whose shapes differ, or another number of headings than columns.
    """
    shapes = {images.shape for _, images in labelled}
    if len(shapes) != 1:
        raise GenlibError(f"rows: shapes {sorted(shapes)}; give at least one row, all of the same shape N C H W")
    columns = labelled[0][1].shape[0]
    if headings and len(headings) != columns:
        raise GenlibError(f"rows: {len(headings)} headings for {columns} columns; give one for each")
    picture = grid(np.concatenate([images for _, images in labelled]), columns, scale, pad)
    margin = max(text_width(label) for label, _ in labelled) + 2 * _MARGIN
    top = LINE if headings else 0
    canvas = Image.new(picture.mode, (picture.width + margin, picture.height + top), white(picture.mode))
    canvas.paste(picture, (margin, top))
    down, across = (picture.height - pad) / len(labelled), (picture.width - pad) / columns
    for index, (label, _) in enumerate(labelled):
        write_text(canvas, label, (margin - _MARGIN, top + round(pad + down * (index + 0.5))), anchor="rm")
    for index, heading in enumerate(headings):
        write_text(canvas, heading, (margin + round(pad + across * (index + 0.5)), top // 2), anchor="mm")
    return canvas


def beside(pictures: Sequence[Image.Image], gap: int = 16) -> Image.Image:
    """Pictures of one mode side by side on white, their tops in one line, `gap` pixels between them.

    Raises:
        GenlibError: no pictures, or more than one mode.
    """
    modes = {picture.mode for picture in pictures}
    if len(modes) != 1:
        raise GenlibError(f"beside: pictures of modes {sorted(modes)}; give at least one, all of one mode")
    mode = modes.pop()
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    canvas = Image.new(mode, (width, max(picture.height for picture in pictures)), white(mode))
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, 0))
        left += picture.width + gap
    return canvas


def pairs(
    originals: Pixels,
    others: Pixels,
    columns: int,
    labels: tuple[str, str] = ("original", "reconstruction"),
    scale: int = 2,
    pad: int = 1,
) -> Image.Image:
    """Alternate rows of originals and rows of what became of them, `columns` images a row.

    Args:
        originals: uint8 `N C H W`; N must be a multiple of `columns`, so that every row is full.
        others: likewise, in the same order.
        columns: images per row.
        labels: what stands beside the two kinds of row.
        scale: as in `grid`.
        pad: as in `grid`.

    Raises:
        GenlibError: shapes differ or N is not a positive multiple of `columns`.
    """
    return interleaved([(labels[0], originals), (labels[1], others)], columns, scale, pad)


def interleaved(kinds: Sequence[tuple[str, Pixels]], columns: int, scale: int = 2, pad: int = 1) -> Image.Image:
    """Like `pairs` for any number of kinds: noisy, restored, clean; noisy, restored, clean; and so on.

    Raises:
        GenlibError: as `pairs`.
    """
    counts = {len(images) for _, images in kinds}
    if len(counts) != 1 or columns < 1 or min(counts) < 1 or min(counts) % columns:
        raise GenlibError(
            f"rows of {columns} images: got {sorted(counts)} images of each kind; give each kind the same multiple"
        )
    starts = range(0, counts.pop(), columns)
    return rows([(name, images[at : at + columns]) for at in starts for name, images in kinds], scale, pad)


def captioned(image: Image.Image, caption: str) -> Image.Image:
    """The picture with a line of text under it; the picture's own pixels stay as they are."""
    canvas = Image.new(image.mode, (image.width, image.height + LINE), white(image.mode))
    canvas.paste(image, (0, 0))
    write_text(canvas, caption, (image.width // 2, image.height + LINE // 2), anchor="mm")
    return canvas


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all; equal pictures give equal bytes (no date, no software name).

    Raises:
        GenlibError: every pixel has the same value; a blank picture is a mistake upstream.
    """
    refuse_blank(image, path)
    buffer = BytesIO()
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    bare.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())


def refuse_blank(image: Image.Image, path: Path) -> None:
    """Raise a GenlibError that names `path` when the picture has one colour only."""
    if image.getcolors(maxcolors=1) is not None:
        raise GenlibError(f"{path}: the picture is blank (one colour); check the images it is made from")


def write_text(image: Image.Image, text: str, position: tuple[int, int], anchor: str) -> None:
    """Write dark text at `position` (x, y in pixels); `anchor` as in Pillow, "mm" being the middle."""
    ink = _INK if image.mode == "L" else (_INK, _INK, _INK)
    ImageDraw.Draw(image).text(position, text, fill=ink, font=_font(), anchor=anchor)


def text_width(text: str) -> int:
    """Pixels that `text` takes from left to right."""
    return round(_font().getlength(text))


def white(mode: str) -> int | tuple[int, int, int]:
    """White as a fill colour of mode "L" or "RGB"."""
    return _WHITE if mode == "L" else (_WHITE, _WHITE, _WHITE)


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=TEXT_SIZE)


def _check(images: Pixels) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise GenlibError(
            f"images: {images.dtype} {images.shape}; a grid takes uint8 N C H W with C = 1 or 3 and N at least 1"
        )
