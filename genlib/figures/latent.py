"""A two-dimensional latent space: where images are encoded, and what its points decode to."""

from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image

from genlib.errors import GenlibError
from genlib.figures.animation import save_gif, seen_captions
from genlib.figures.grids import TEXT_SIZE, Pixels, grid, save_png, text_width, white, write_text
from genlib.figures.style import COLOURS, look, panels, picture

Codes = NDArray[np.floating]
Labels = NDArray[np.integer]
Limits = tuple[float, float]

QUANTILES = (0.05, 0.95)
_CORE = (0.002, 0.998)


def codes_figure(
    codes: Codes, labels: Labels, classes: Sequence[str], path: Path, limits: Limits | None = None
) -> None:
    """Write a scatter plot of codes, coloured by class, each class also named at the median of its codes (PNG).

    Args:
        codes: float `N 2`.
        labels: integers `N`, indices into `classes`.
        classes: at most ten names.
        path: the PNG to write.
        limits: lowest and highest value of both axes; None takes `code_limits(codes)`.

    Raises:
        GenlibError: shapes or labels that do not fit, codes that are not finite, or more than ten classes.
    """
    _check(codes[None], labels, classes)
    save_png(_scatter(codes, labels, classes, code_limits(codes[None]) if limits is None else limits), path)


def codes_gif(
    codes: Codes,
    labels: Labels,
    classes: Sequence[str],
    images_seen: Sequence[int],
    path: Path,
    seconds_per_frame: float = 0.25,
) -> None:
    """Animate the latent space as it forms during training; all frames share their axes.

    Args:
        codes: float `F N 2`, the codes of the same N images at F moments.
        labels: integers `N`.
        classes: at most ten names.
        images_seen: F counts of training images.
        path: the GIF to write.
        seconds_per_frame: how long each frame stays.

    Raises:
        GenlibError: as `codes_figure`, or counts that do not match.
    """
    _check(codes, labels, classes)
    limits = code_limits(codes)
    frames = [_scatter(moment, labels, classes, limits) for moment in codes]
    save_gif(frames, path, seconds_per_frame, seen_captions(images_seen))


def code_limits(codes: Codes) -> Limits:
    """Lowest and highest value of both axes: the range of all but the outermost 0.2% of values, a little widened.

    Args:
        codes: float, any shape whose last axis is the 2 dimensions.
    """
    low, high = (float(value) for value in np.quantile(codes, _CORE))
    room = max(0.08 * (high - low), 0.1)
    return low - room, high + room


def manifold_codes(side: int, quantiles: tuple[float, float] = QUANTILES) -> NDArray[np.float32]:
    """Codes of a square of `side` x `side` points, evenly spaced in the quantiles of the standard normal prior.

    As in Kingma & Welling 2013 (appendix A): the unit square mapped through the inverse Gaussian CDF.

    Returns:
        float32 `side*side 2`, row by row from the top: the first dimension grows to the right, the second upwards.

    Raises:
        GenlibError: `side` below 2, or quantiles not increasing within (0, 1).
    """
    low, high = quantiles
    if side < 2 or not 0 < low < high < 1:
        raise GenlibError(f"manifold: side={side}, quantiles={quantiles}; side >= 2 and 0 < low < high < 1 are needed")
    line = np.array([NormalDist().inv_cdf(level) for level in np.linspace(low, high, side)])
    across, up = np.meshgrid(line, line[::-1])
    return np.stack([across.ravel(), up.ravel()], axis=1).astype(np.float32)


def manifold(images: Pixels, side: int, quantiles: tuple[float, float] = QUANTILES, scale: int = 1) -> Image.Image:
    """Lay out the images decoded from `manifold_codes` with the prior's quantiles along both axes.

    Args:
        images: uint8 `side*side C H W`, in the order of `manifold_codes`.
        side: points per axis.
        quantiles: as given to `manifold_codes`.
        scale: as in `grids.grid`.

    Raises:
        GenlibError: not `side` x `side` images, or images that `grid` refuses.
    """
    if len(images) != side * side:
        raise GenlibError(
            f"manifold: {len(images)} images for a square of {side} x {side}; decode manifold_codes(side)"
        )
    square = grid(images, side, scale, pad=0)
    line = TEXT_SIZE + 6
    names = ("first latent dimension (quantile of the prior)", "second latent dimension")
    canvas = Image.new(square.mode, (square.width + 2 * line + 20, square.height + 2 * line), white(square.mode))
    corner = (2 * line, 0)
    canvas.paste(square, corner)
    for level, share in _ticks(quantiles):
        text, half = f"{level:.2f}", text_width(f"{level:.2f}") // 2
        along = min(max(round(share * square.width), half), square.width)
        write_text(canvas, text, (corner[0] + along, square.height + line // 2), anchor="mm")
        _write_upwards(canvas, text, (line + line // 2, square.height - min(max(along, half), square.height - half)))
    write_text(canvas, names[0], (corner[0] + square.width // 2, square.height + line + line // 2), anchor="mm")
    _write_upwards(canvas, names[1], (line // 2, square.height // 2))
    return canvas


def _ticks(quantiles: tuple[float, float]) -> list[tuple[float, float]]:
    low, high = quantiles
    return [(low, 0.0), ((low + high) / 2, 0.5), (high, 1.0)]


def _write_upwards(canvas: Image.Image, text: str, centre: tuple[int, int]) -> None:
    strip = Image.new(canvas.mode, (text_width(text) + 4, TEXT_SIZE + 4), white(canvas.mode))
    write_text(strip, text, (strip.width // 2, strip.height // 2), anchor="mm")
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    canvas.paste(turned, (centre[0] - turned.width // 2, centre[1] - turned.height // 2))


def _scatter(codes: Codes, labels: Labels, classes: Sequence[str], limits: Limits) -> Image.Image:
    with look():
        figure, (axes,) = panels(1, width=5.4, height=4.4)
        axes.scatter(codes[:, 0], codes[:, 1], c=[COLOURS[label] for label in labels], s=5, linewidths=0, alpha=0.8)
        for label in np.unique(labels):
            x, y = np.median(codes[labels == label], axis=0)
            outline = [withStroke(linewidth=3, foreground="white")]
            name = axes.annotate(classes[label], (x, y), ha="center", va="center", fontsize=13, fontweight="bold")
            name.set(path_effects=outline, annotation_clip=True)
        axes.set(xlim=limits, ylim=limits, aspect="equal")
        axes.set(xlabel="first latent dimension", ylabel="second latent dimension")
        keys = [Line2D([], [], ls="", marker="o", ms=6, color=COLOURS[i], label=name) for i, name in enumerate(classes)]
        figure.legend(handles=keys, loc="outside right center", handletextpad=0.2)
        return picture(figure)


def _check(codes: Codes, labels: Labels, classes: Sequence[str]) -> None:
    if codes.ndim != 3 or codes.shape[2] != 2 or labels.shape != codes.shape[1:2] or 0 in codes.shape:
        raise GenlibError(f"codes {codes.shape[1:]} with labels {labels.shape}; give codes N 2 and labels N, N >= 1")
    if len(classes) > len(COLOURS):
        raise GenlibError(f"{len(classes)} classes; at most {len(COLOURS)} can be told apart by colour, merge some")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise GenlibError(f"labels {labels.min()} to {labels.max()} for {len(classes)} classes; give indices into them")
    if not np.isfinite(codes).all():
        raise GenlibError("codes: NaN or infinite values; the encoder has diverged, lower the learning rate")
