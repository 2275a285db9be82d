"""The drawn digits: pinned bytes, sound splits, and the geometry against SciPy, fontTools and hand-made shapes."""

import gzip
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from fontTools.pens.areaPen import AreaPen
from fontTools.ttLib import TTFont
from scipy.ndimage import distance_transform_edt

from genlib.data.idx import read_idx
from genlib.data.kinds import digits
from genlib.data.kinds.digits import CANVAS, GRID, REACH, draw_digits, edge_levels, fill, load_glyphs, outline_edges
from genlib.errors import GenlibError

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)

# sha256 of the uncompressed content of each, for 33 + 21 images, and of the first file itself.
PINNED_CONTENTS = [
    "a534de551d21d095a97f13ba37a32b100323ac10b6eef776542cbda704605008",
    "4b9c50bb08b319ad04e45842d99ab8b2bd057be49d0a1a139fe8a0dd230d1791",
    "71d7c4ec38f27906a7f96c0b36f37d659ca174de9ed65789272dd6b59a6bfd9b",
    "b60ed903bc816028c966e6218491509ea032563056e96d2f868f10f202f51748",
]
PINNED_FILE = "712c1f14eacbc6e23a1d77603a219bf700be66ddfa8872fe9cf4ab1d5aa9400b"

Split = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def read_split(folder: Path, prefix: str) -> Split:
    return read_idx(folder / f"{prefix}-images-idx3-ubyte.gz"), read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "new"
    draw_digits(folder, 1003, 303)
    return folder


def test_small_sets_are_pinned_bit_for_bit(tmp_path: Path) -> None:
    draw_digits(tmp_path, 33, 21)
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    contents = [gzip.decompress((tmp_path / name).read_bytes()) for name in FILES]
    assert [sha256(content).hexdigest() for content in contents] == PINNED_CONTENTS
    assert sha256((tmp_path / FILES[0]).read_bytes()).hexdigest() == PINNED_FILE


def test_shapes_and_labels(folder: Path) -> None:
    for prefix, count in (("train", 1003), ("t10k", 303)):
        images, labels = read_split(folder, prefix)
        assert images.shape == (count, 28, 28)
        assert images.dtype == labels.dtype == np.uint8
        counts = np.bincount(labels, minlength=10)
        assert len(counts) == 10
        # Independent and uniform: chi squared has a mean of 9 then; 0 would be classes that are equally frequent.
        assert 1.5 < ((counts - count / 10) ** 2 / (count / 10)).sum() < 24
        assert np.count_nonzero(np.diff(labels.astype(int)) == 1) < count / 4


def test_counts_of_one_and_more_than_a_chunk(tmp_path: Path) -> None:
    draw_digits(tmp_path, 251, 1)
    assert read_split(tmp_path, "train")[0].shape == (251, 28, 28)
    images, labels = read_split(tmp_path, "t10k")
    assert images.shape == (1, 28, 28)
    assert labels.tolist() == [4]


def test_no_image_occurs_twice_in_or_across_the_splits(folder: Path) -> None:
    images = np.concatenate([read_split(folder, "train")[0], read_split(folder, "t10k")[0]])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_splits_have_streams_of_their_own(tmp_path: Path) -> None:
    draw_digits(tmp_path, 50, 50)
    train, test = read_split(tmp_path, "train"), read_split(tmp_path, "t10k")
    assert not np.array_equal(train[1], test[1])
    draw_digits(tmp_path / "other", 50, 20)
    np.testing.assert_array_equal(read_split(tmp_path / "other", "train")[0], train[0])


def test_digits_look_like_mnist_in_numbers(folder: Path) -> None:
    images, _ = read_split(folder, "train")
    border = np.ones((28, 28), dtype=bool)
    border[1:-1, 1:-1] = False
    assert images[:, border].max() == 0  # nothing is clipped
    assert (images.max(axis=(1, 2)) >= 200).all()  # bright ink
    ink_share = (images > 0).mean(axis=(1, 2))
    assert 0.08 < ink_share.min() < ink_share.max() < 0.40
    assert images.mean() / 255 == pytest.approx(0.1307, abs=0.01)  # MNIST's mean
    ink = images.astype(float)
    centre_x, centre_y = (ink.sum(axis=axis) @ np.arange(28) / ink.sum(axis=(1, 2)) for axis in (1, 2))
    assert np.abs(centre_x - 13.5).max() < 5
    assert np.abs(centre_y - 13.5).max() < 5


def test_test_digits_are_recognised_by_their_nearest_training_digit(folder: Path) -> None:
    (images, labels), (test_images, test_labels) = read_split(folder, "train"), read_split(folder, "t10k")
    known, asked = images.reshape(-1, 784).astype(float), test_images.reshape(-1, 784).astype(float)
    distance = (known**2).sum(axis=1) - 2 * asked @ known.T
    accuracy = (labels[distance.argmin(axis=1)] == test_labels).mean()
    assert accuracy > 0.95
    assert (distance.min(axis=1) + (asked**2).sum(axis=1) > 255**2).all()  # yet none is all but a copy


@pytest.mark.parametrize(
    ("train", "test", "key"), [(0, 5, "train_images"), (5, -1, "test_images"), (10**9, 5, "train_images")]
)
def test_counts_out_of_range_are_refused(tmp_path: Path, train: int, test: int, key: str) -> None:
    with pytest.raises(GenlibError, match=rf"{key}: -?\d+ is out of range; set it to 1 to 100000"):
        draw_digits(tmp_path / "new", train, test)
    assert list(tmp_path.iterdir()) == []


def test_other_fonts_are_reported_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "STYLES", digits.STYLES[:2])
    with pytest.raises(GenlibError, match=r"draw other glyphs .*requirements\.lock"):
        draw_digits(tmp_path / "new", 5, 5)
    monkeypatch.setattr(digits, "STYLES", (("NoSuchFont", 0),))
    with pytest.raises(GenlibError, match=r"NoSuchFont\.ttf: no such font; install"):
        draw_digits(tmp_path / "new", 5, 5)
    assert list(tmp_path.iterdir()) == []


def box(left: int, top: int, right: int, bottom: int, clockwise: bool = True) -> npt.NDArray[np.int64]:
    """Edges of a box whose corners are given in subpixels."""
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.int64) * GRID
    if not clockwise:
        corners = corners[::-1]
    return np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)


def test_fill_follows_the_nonzero_rule() -> None:
    expected = np.zeros((CANVAS, CANVAS), dtype=bool)
    expected[20:60, 10:70] = True
    np.testing.assert_array_equal(fill(box(10, 20, 70, 60)), expected)
    overlapping = np.concatenate([box(10, 20, 70, 60), box(30, 30, 40, 40)])
    np.testing.assert_array_equal(fill(overlapping), expected)
    with_hole = np.concatenate([box(10, 20, 70, 60), box(30, 30, 40, 41, clockwise=False)])
    expected[30:41, 30:40] = False
    np.testing.assert_array_equal(fill(with_hole), expected)


def test_fill_of_a_slanted_shape() -> None:
    corners = np.array([(10, 10), (110, 60), (40, 150)], dtype=np.int64) * GRID
    filled = fill(np.stack([corners, np.roll(corners, -1, axis=0)], axis=1))
    y, x = (np.indices((CANVAS, CANVAS)) + 0.5) * GRID
    sides = [
        (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
        for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)
    ]
    inside = np.min(sides, axis=0) > 0
    on_edge = np.abs(np.min(sides, axis=0)) < 150 * GRID  # within a grid step of an edge: rounding decides
    np.testing.assert_array_equal(filled[~on_edge], inside[~on_edge])
    assert inside.sum() > 5000
    assert on_edge.sum() < 500


@pytest.mark.parametrize("digit", range(10))
def test_outlines_enclose_the_area_that_fonttools_computes(digit: int) -> None:
    package = find_spec("matplotlib")
    assert package is not None
    assert package.origin is not None
    font = TTFont(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSerif.ttf")
    name = font.getBestCmap()[ord(str(digit))]
    pen = AreaPen()
    font.getGlyphSet()[name].draw(pen)
    glyph = font["glyf"][name]
    scale = 160 / (glyph.yMax - glyph.yMin)

    edges = outline_edges(font, digit) / GRID
    assert edges[..., 1].min() == pytest.approx(112 - 80, abs=0.01)
    assert edges[..., 1].max() == pytest.approx(112 + 80, abs=0.01)
    assert edges[..., 0].min() + edges[..., 0].max() == pytest.approx(CANVAS, abs=0.02)
    (x0, y0), (x1, y1) = edges.transpose(1, 2, 0)
    enclosed = abs(np.sum(x0 * y1 - x1 * y0)) / 2
    assert enclosed == pytest.approx(abs(pen.value) * scale**2, rel=0.01)
    assert fill(outline_edges(font, digit)).sum() == pytest.approx(enclosed, rel=0.02)


def test_edge_levels_are_euclidean_distances() -> None:
    ink = np.zeros((60, 60), dtype=bool)
    ink[20:40, 15:45] = True
    ink[25:28, 20:23] = False
    ink[12, 30] = True
    levels = edge_levels(ink)
    outside = np.minimum(np.ceil(distance_transform_edt(~ink)), REACH + 1)
    inside = np.minimum(np.ceil(distance_transform_edt(ink)), REACH + 1)
    np.testing.assert_array_equal(levels, np.where(ink, inside - 1, -outside))


def test_glyphs_keep_clear_of_the_canvas_border() -> None:
    glyphs = load_glyphs()
    assert glyphs.shape == (10, 10, CANVAS, CANVAS)
    border = np.ones((CANVAS, CANVAS), dtype=bool)
    border[REACH:-REACH, REACH:-REACH] = False
    assert (glyphs[:, :, border] == -REACH - 1).all()
