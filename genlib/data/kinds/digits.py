"""The embedded dataset `digits`: printed digits drawn by code, in the four idx files of MNIST.

The same bytes come out on every machine: glyph outlines are read with fontTools from fonts that matplotlib ships, and
from there on everything is integer arithmetic (no font rasteriser, no floating point). Random numbers come from
`numpy.random.RandomState`, whose stream NumPy has frozen (NEP 19). Should matplotlib ever change its digits, the
checksum of the rendered glyphs reports it instead of drawing another dataset.

Lengths are in subpixels, 1/8 of a pixel of the 28x28 image, unless their names say otherwise.
"""

import logging
from collections.abc import Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from fontTools.ttLib import TTFont

from genlib.data.idx import write_idx
from genlib.errors import GenlibError

IMAGE_PIXELS = 28
SUBPIXELS = 8
CANVAS = IMAGE_PIXELS * SUBPIXELS
GRID = 256
"""Outline coordinates on the canvas are whole multiples of 1/GRID subpixel."""
REACH = 8
"""Distances from the edge of a glyph are known up to here."""
COUNT_LIMIT = 100_000

# Font, and by how much each side of its strokes is moved outwards at least (negative: thinned), so that every style
# ends up with strokes of about 2 to 4 pixels.
STYLES = (
    ("DejaVuSans", 1),
    ("DejaVuSans-Bold", -4),
    ("DejaVuSerif", 1),
    ("DejaVuSerif-Italic", 1),
    ("STIXGeneral", 2),
    ("STIXGeneralItalic", 3),
    ("STIXGeneralBolIta", 0),
    ("cmr10", 3),
    ("cmss10", 1),
    ("cmtt10", 1),
)
_THICKENING = (0, 3)  # on top of that

# The random transform that leads from a place in the image back to the glyph: lowest and highest coefficient, in 1/_ONE
# (a turn of 700 is about 10 degrees); the shift in subpixels.
_ONE = 4096
_WIDTH = (3700, 5000)
_HEIGHT = (3900, 4700)
_TURN = (-700, 700)
_SLANT = (-800, 800)
_BEND = (-900, 900)
_SHIFT = (-SUBPIXELS, SUBPIXELS)

_INK = (224, 255)
_NOISE = (-8, 8)  # grey levels, on ink only

_SEED = 28_281_000  # the test split takes the next one
_CLASSES = 10
_GLYPH_HEIGHT = 20 * SUBPIXELS  # MNIST fits its digits into 20 pixels
_CURVE_STEPS = 8
_SOFTNESS = 4  # width of the ramp from background to full ink
_SAMPLES = 4  # per pixel and axis
_CHUNK_IMAGES = 250
_GLYPHS_SHA256 = "82d32b8a053eeb8f0a675b5b0a260efb93b8c21cbb7452e8f1ddc2734bbde834"

_Integers = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]


def draw_digits(folder: Path, train_images: int, test_images: int) -> None:
    """Draw both splits and write them into `folder` under MNIST's four file names.

    `{train,t10k}-images-idx3-ubyte.gz` hold uint8 N 28 28, white ink on black, 0..255; `...-labels-idx1-ubyte.gz` hold
    uint8 N, 0..9, independent and uniform: if a test split held each class equally often, distances between it and
    samples would come out too small. The files depend on nothing but the two counts. Each appears whole or not at all;
    for the four of them together, pass a staged folder.

    Args:
        folder: created if need be.
        train_images: 1 to `COUNT_LIMIT`.
        test_images: 1 to `COUNT_LIMIT`; drawn from a random stream of its own.

    Raises:
        GenlibError: a count is out of range, or the installed matplotlib lacks the fonts or has other digits in them.
    """
    for key, count in (("train_images", train_images), ("test_images", test_images)):
        if not 1 <= count <= COUNT_LIMIT:
            raise GenlibError(f"{key}: {count} is out of range; set it to 1 to {COUNT_LIMIT}")
    glyphs = load_glyphs()
    for seed, prefix, count in ((_SEED, "train", train_images), (_SEED + 1, "t10k", test_images)):
        images, labels = draw_split(glyphs, count, np.random.RandomState(seed))
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)


def load_glyphs() -> npt.NDArray[np.int8]:
    """Edge levels (see `edge_levels`) of every style's ten digits: int8, styles x 10 x CANVAS x CANVAS.

    Raises:
        GenlibError: matplotlib's fonts are missing or hold other digits than those this dataset is defined by.
    """
    # Some of the fonts have odd creation dates, of which fontTools warns.
    logging.getLogger("fontTools.ttLib.tables._h_e_a_d").setLevel(logging.ERROR)
    glyphs = np.stack([_load_style(name) for name, _ in STYLES])
    found = sha256(glyphs.tobytes()).hexdigest()
    if found != _GLYPHS_SHA256:
        raise GenlibError(
            f"digits: the fonts of the installed matplotlib draw other glyphs (sha256 {found}); "
            "install the matplotlib and fonttools of requirements.lock"
        )
    return glyphs


def draw_split(glyphs: npt.NDArray[np.int8], count: int, random: np.random.RandomState) -> tuple[_Bytes, _Bytes]:
    """Draw `count` images: uint8 count 28 28 and their labels, uint8 count. `glyphs` as from `load_glyphs`."""
    labels = random.randint(_CLASSES, size=count, dtype=np.int64)
    chunks = [labels[start : start + _CHUNK_IMAGES] for start in range(0, count, _CHUNK_IMAGES)]
    return np.concatenate([_draw_chunk(glyphs, chunk, random) for chunk in chunks]), labels.astype(np.uint8)


def outline_edges(font: TTFont, digit: int) -> _Integers:
    """The outline of a digit as straight edges: int64, edges x (from, to) x (x, y), in 1/GRID subpixel, y downwards.

    Each curve is cut into `_CURVE_STEPS` edges. The bounding box is 20 pixels high and centred on the canvas.
    """
    table = font["glyf"]
    points, contour_ends, flags = table[font.getBestCmap()[ord("0") + digit]].getCoordinates(table)
    contours = zip([0, *(end + 1 for end in contour_ends[:-1])], contour_ends, strict=True)
    curves = np.concatenate([_contour_curves(points[a : b + 1], flags[a : b + 1]) for a, b in contours])

    step = np.arange(_CURVE_STEPS + 1)
    weights = np.stack([(_CURVE_STEPS - step) ** 2, 2 * step * (_CURVE_STEPS - step), step**2], axis=1)
    corners = np.einsum("tk,ckd->ctd", weights, curves) * (1, -1)

    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    corners = (2 * corners - low - high) * (_GLYPH_HEIGHT * GRID) // (2 * (high - low)[1]) + CANVAS * GRID // 2
    return np.stack([corners[:, :-1], corners[:, 1:]], axis=2).reshape(-1, 2, 2)


def fill(edges: _Integers) -> npt.NDArray[np.bool_]:
    """Which subpixels of the canvas have their centre inside closed outlines (nonzero winding rule): CANVAS x CANVAS.

    `edges` as from `outline_edges`.
    """
    (x0, y0), (x1, y1) = edges[:, :, :, None].transpose(1, 2, 0, 3)
    centre_y = np.arange(CANVAS) * GRID + GRID // 2
    edge, row = np.nonzero((np.minimum(y0, y1) <= centre_y) & (centre_y < np.maximum(y0, y1)))
    x0, y0, x1, y1 = (coordinate[edge, 0] for coordinate in (x0, y0, x1, y1))
    crossing_x = x0 + (centre_y[row] - y0) * (x1 - x0) // (y1 - y0)
    first_column = np.clip((crossing_x + GRID // 2 - 1) // GRID, 0, CANVAS)
    winding = np.zeros((CANVAS, CANVAS + 1), dtype=np.int64)
    np.add.at(winding, (row, first_column), np.sign(y1 - y0))
    filled: npt.NDArray[np.bool_] = winding.cumsum(axis=1)[:, :CANVAS] != 0
    return filled


def edge_levels(ink: npt.NDArray[np.bool_]) -> npt.NDArray[np.int8]:
    """Signed distance from the edge of `ink`, rounded outwards: int8, -REACH - 1 (far outside) to REACH (deep inside).

    The ink moved outwards by t subpixels is where the level is at least -t. `ink` keeps clear of the canvas border.
    """
    distances = np.arange(REACH + 2)
    outside = np.searchsorted(distances**2, _squared_distance(ink))
    inside = np.searchsorted(distances**2, _squared_distance(~ink))
    return np.where(ink, inside - 1, -outside).astype(np.int8)


def _load_style(name: str) -> npt.NDArray[np.int8]:
    package = find_spec("matplotlib")  # found, not imported: that would take longer than drawing a few hundred digits
    if package is None or package.origin is None:
        raise GenlibError("digits: matplotlib, whose fonts are drawn, is not installed; install requirements.lock")
    path = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"
    if not path.is_file():
        raise GenlibError(f"digits: {path}: no such font; install the matplotlib of requirements.lock")
    with TTFont(path) as font:
        return np.stack([edge_levels(fill(outline_edges(font, digit))) for digit in range(_CLASSES)])


def _contour_curves(points: Sequence[tuple[int, int]], flags: Sequence[int]) -> _Integers:
    """One closed TrueType contour as quadratic curves: int64, curves x (start, control, end) x (x, y), in 1/2 unit.

    Points on and off the curve are made to alternate by inserting midpoints: between two off the curve, as the format
    implies, and between two on it, as the control point of a straight line.
    """
    count = len(points)
    alternating = []
    for i in range(count):
        (x, y), (next_x, next_y) = points[i], points[(i + 1) % count]
        on_curve, next_on_curve = flags[i] & 1, flags[(i + 1) % count] & 1
        alternating.append((2 * x, 2 * y))
        if on_curve == next_on_curve:
            alternating.append((x + next_x, y + next_y))
    ring = np.roll(np.array(alternating, dtype=np.int64), 0 if flags[0] & 1 else -1, axis=0)
    starts = ring[0::2]
    return np.stack([starts, ring[1::2], np.roll(starts, -1, axis=0)], axis=1)


def _squared_distance(ink: npt.NDArray[np.bool_]) -> _Bytes:
    """Squared distance to the nearest true subpixel, at most (REACH + 1) ** 2; one axis after the other."""
    squared = np.where(ink, 0, (REACH + 1) ** 2).astype(np.uint8)
    for axis in (0, 1):
        shifted = [np.roll(squared, shift, axis) + np.uint8(shift**2) for shift in range(-REACH, REACH + 1)]
        squared = np.min(shifted, axis=0)
    return squared


def _draw_chunk(glyphs: npt.NDArray[np.int8], labels: _Integers, random: np.random.RandomState) -> _Bytes:
    count = len(labels)
    style = _draw(random, (0, len(STYLES) - 1), (count,))
    thickening = np.array([least for _, least in STYLES])[style] + _draw(random, _THICKENING, (count,))
    ink = _draw(random, _INK, (count, 1, 1))

    row, column = _source_positions(count, random)
    glyph = (style * _CLASSES + labels).astype(np.int32)[:, None, None]
    level = glyphs.reshape(-1)[(glyph * CANVAS + row) * CANVAS + column]
    to_middle_of_ramp = (thickening + _SOFTNESS // 2).astype(np.int8)[:, None, None]
    coverage = np.clip(level + to_middle_of_ramp, 0, _SOFTNESS)

    shape = (count, IMAGE_PIXELS, _SAMPLES, IMAGE_PIXELS, _SAMPLES)
    total = coverage.reshape(shape).sum(axis=(2, 4), dtype=np.int64)
    grey = total * ink // (_SOFTNESS * _SAMPLES**2)
    noise = _draw(random, _NOISE, grey.shape)
    return np.where(grey > 0, np.clip(grey + noise, 0, 255), 0).astype(np.uint8)


def _source_positions(count: int, random: np.random.RandomState) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Row and column of the glyph canvas that each sample of each image shows: int32, count x samples x samples."""
    spacing = SUBPIXELS // _SAMPLES
    offset = np.arange(CANVAS // spacing, dtype=np.int32) * spacing + (spacing - CANVAS) // 2
    width, height, turn, slant, bend, shift_x, shift_y = (
        _draw(random, limits, (count, 1, 1)).astype(np.int32)
        for limits in (_WIDTH, _HEIGHT, _TURN, _SLANT, _BEND, _SHIFT, _SHIFT)
    )
    x, y = offset - shift_x, offset[:, None] - shift_y
    column = (width * x + ((slant - turn) * y + bend * (y * y >> 7))) // _ONE + CANVAS // 2
    row = (turn * x + height * y) // _ONE + CANVAS // 2
    return np.clip(row, 0, CANVAS - 1), np.clip(column, 0, CANVAS - 1)


def _draw(random: np.random.RandomState, limits: tuple[int, int], shape: tuple[int, ...]) -> _Integers:
    low, high = limits
    return random.randint(low, high + 1, size=shape, dtype=np.int64)
