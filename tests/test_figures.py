"""Figures: their pixels, not only that they exist."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from genlib.errors import GenlibError
from genlib.figures import animation, curves, grids, latent, moments
from genlib.figures.neighbours import nearest, neighbours
from genlib.figures.style import COLOURS

GREY = np.arange(5 * 1 * 3 * 4, dtype=np.uint8).reshape(5, 1, 3, 4)
CLASSES = ["cat", "dog", "eel"]


def noise(*shape: int, seed: int = 0) -> grids.Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels(path: Path) -> Any:
    """The picture as an array; fails if it does not open or is blank."""
    with Image.open(path) as image:
        image.load()
        array = np.asarray(image.convert("RGB"))
    assert array.min() < array.max()
    return array


def near(array: Any, colour: str) -> int:
    """How many pixels have this colour, or nearly: thin lines and dots are blended with white at their edges."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(array.astype(int) - wanted).max(axis=-1) <= 50).sum())


# Grids


@given(
    count=st.integers(1, 7), columns=st.integers(1, 4), scale=st.integers(1, 3), pad=st.integers(0, 2),
    channels=st.sampled_from([1, 3]),
)  # fmt: skip
def test_grid_puts_every_pixel_where_it_belongs(count: int, columns: int, scale: int, pad: int, channels: int) -> None:
    images = noise(count, channels, 3, 4)
    drawn = np.asarray(grids.grid(images, columns, scale, pad))
    drawn = drawn[:, :, None] if channels == 1 else drawn
    lines = -(-count // columns)
    assert drawn.shape == (lines * (3 * scale + pad) + pad, columns * (4 * scale + pad) + pad, channels)
    free = np.ones(drawn.shape, bool)
    for index in range(count):
        top = pad + index // columns * (3 * scale + pad)
        left = pad + index % columns * (4 * scale + pad)
        for row in range(3 * scale):
            for column in range(4 * scale):
                expected = images[index, :, row // scale, column // scale]
                assert (drawn[top + row, left + column] == expected).all()
                free[top + row, left + column] = False
    assert (drawn[free] == 255).all()


@pytest.mark.parametrize(
    "images",
    [GREY.astype(np.float32), GREY[:, 0], GREY[:0], np.zeros((2, 2, 3, 3), np.uint8), np.zeros((2, 4, 3, 3), np.uint8)],
)
def test_grid_refuses_what_is_no_stack_of_images(images: Any) -> None:
    with pytest.raises(GenlibError, match="uint8 N C H W"):
        grids.grid(images, 2)


@pytest.mark.parametrize("wrong", [{"columns": 0}, {"columns": 2, "scale": 0}, {"columns": 2, "pad": -1}])
def test_grid_refuses_impossible_layouts(wrong: dict[str, int]) -> None:
    with pytest.raises(GenlibError, match="at least"):
        grids.grid(GREY, **wrong)


def test_rows_have_labels_left_of_the_images() -> None:
    images = noise(4, 1, 10, 10)
    picture = np.asarray(grids.rows([("original", images), ("", images)], scale=2, pad=1))
    margin = picture.shape[1] - (4 * 21 + 1)
    assert (picture[:, margin:] == np.asarray(grids.grid(np.concatenate([images, images]), 4, 2, 1))).all()
    assert picture[:22, :margin].min() < 128
    assert (picture[22:, :margin] == 255).all()


def test_pairs_alternate() -> None:
    a, b = noise(4, 3, 5, 5, seed=1), noise(4, 3, 5, 5, seed=2)
    picture = np.asarray(grids.pairs(a, b, columns=2, scale=1, pad=0))
    assert (picture[:, -10:] == np.asarray(grids.grid(np.concatenate([a[:2], b[:2], a[2:], b[2:]]), 2, 1, 0))).all()


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GenlibError, match="shapes"):
        grids.rows([("a", GREY), ("b", GREY[:2])])
    with pytest.raises(GenlibError, match="at least one row"):
        grids.rows([])
    with pytest.raises(GenlibError, match="same multiple"):
        grids.pairs(GREY, GREY, columns=2)
    with pytest.raises(GenlibError, match="same multiple"):
        grids.interleaved([("noisy", GREY), ("clean", GREY[:4])], columns=1)


def test_headings_stand_above_their_columns() -> None:
    images = noise(3, 3, 20, 20)
    bare = np.asarray(grids.rows([("a", images), ("b", images)], scale=2))
    headed = np.asarray(grids.rows([("a", images), ("b", images)], scale=2, headings=["-1", "", "+1"]))
    assert (headed[grids.LINE :] == bare).all()
    margin = headed.shape[1] - 3 * 41 - 1
    columns = [headed[: grids.LINE, margin + 41 * at : margin + 41 * (at + 1)] for at in range(3)]
    assert [bool(column.min() < 128) for column in columns] == [True, False, True]
    with pytest.raises(GenlibError, match="2 headings for 3 columns"):
        grids.rows([("a", images)], headings=["x", "y"])


def test_beside_keeps_each_picture() -> None:
    a, b = grids.grid(noise(1, 3, 5, 7), 1, pad=0), grids.grid(noise(1, 3, 9, 4, seed=1), 1, pad=0)
    drawn = np.asarray(grids.beside([a, b], gap=3))
    assert drawn.shape == (18, 14 + 3 + 8, 3)
    assert (drawn[:10, :14] == np.asarray(a)).all()
    assert (drawn[:, 17:] == np.asarray(b)).all()
    assert (drawn[10:, :17] == 255).all()
    for wrong in ([], [a, a.convert("L")]):
        with pytest.raises(GenlibError, match="beside"):
            grids.beside(wrong)


# Nearest neighbours


@pytest.mark.parametrize("mirror", [False, True])
def test_nearest_is_what_brute_force_finds(mirror: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genlib.figures.neighbours._CHUNK_BYTES", 8 * 3 * 4 * 5 * 7)  # seven images at a time
    images, queries = noise(40, 3, 4, 5, seed=1), noise(6, 3, 4, 5, seed=2)
    images[9] = queries[1]
    images[33] = queries[2][..., ::-1]
    images[20] = images[11]  # equally near
    found = nearest(queries, images, 40, mirror)
    for query, indices, mirrored, distances in zip(
        queries, found.indices, found.mirrored, found.distances, strict=True
    ):
        expected = []
        for index, image in enumerate(images / 255):
            ways = [image, image[..., ::-1]] if mirror else [image]
            each = [np.sqrt(np.mean((query / 255 - way) ** 2)) for way in ways]
            expected.append((min(each), index, int(np.argmin(each))))
        expected.sort(key=lambda entry: (round(entry[0], 9), entry[1]))
        assert list(indices) == [index for _, index, _ in expected]
        assert list(mirrored) == [bool(way) for _, _, way in expected]
        assert distances == pytest.approx([distance for distance, _, _ in expected])
    assert (found.indices[1, 0], found.distances[1, 0]) == (9, 0)
    assert bool(found.distances[2, 0] == 0) == mirror


def test_nearest_refuses_what_does_not_match() -> None:
    for queries, count in ((noise(2, 1, 4, 5), 1), (noise(2, 3, 4, 5), 9), (noise(2, 3, 4, 5), 0)):
        with pytest.raises(GenlibError, match="neighbours"):
            nearest(queries, noise(8, 3, 4, 5), count, mirror=False)


def test_neighbours_picture_shows_each_beside_its_sample() -> None:
    samples, images = noise(2, 3, 64, 64, seed=3), noise(5, 3, 64, 64, seed=4)
    images[4] = samples[1][..., ::-1]
    found = nearest(samples, images, 2, mirror=True)
    picture = np.asarray(neighbours(samples, images, found))
    line = 130 + grids.LINE
    blocks = np.split(picture, [picture.shape[1] // 2], axis=1)
    assert picture.shape[0] == grids.LINE + line  # two blocks of one line
    for block, sample, row in zip((blocks[0], blocks[1][:, 16:]), samples, range(2), strict=True):
        tiles = [block[grids.LINE + 1 :, left : left + 128][:128] for left in (1, 147, 277)]
        shown = [images[index] for index in found.indices[row]]
        shown = [image[..., ::-1] if turn else image for image, turn in zip(shown, found.mirrored[row], strict=True)]
        for tile, image in zip(tiles, (sample, *shown), strict=True):
            assert (tile == image.repeat(2, 1).repeat(2, 2).transpose(1, 2, 0)).all()
    assert found.mirrored[1, 0]


# Four points of training


def test_four_points_are_the_nearest_frames() -> None:
    seen = [0, *(round(64000 ** (n / 29)) for n in range(1, 30))]
    chosen = [seen[index] for index in moments.four_points(seen)]
    for share, count in zip((1 / 27, 1 / 9, 1 / 3, 1), chosen, strict=True):
        ratios = {other: max(other / (share * 64000), share * 64000 / other) for other in seen if other}
        assert ratios[count] == min(ratios.values())


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([0, 100, 200, 300, 400], [1, 2, 3, 4]),
        ([0, 10, 60_000, 61_000, 64_000], [1, 2, 3, 4]),  # distinct, though two would suit one place
        ([0, 1, 2, 3, 900, 1000, 4000, 16_000, 64_000], [5, 6, 7, 8]),
        ([0, 100, 200, 400], [0, 1, 2, 3]),
        ([0, 100], [0, 1]),
        ([0], [0]),
    ],
)
def test_four_points_are_distinct_and_trained_where_possible(seen: list[int], expected: list[int]) -> None:
    assert moments.four_points(seen) == expected


def test_training_points_show_the_frames_chosen() -> None:
    frames = noise(9, 20, 1, 8, 8)
    seen = [0, 1, 2, 3, 900, 1000, 4000, 16_000, 64_000]
    picture = np.asarray(moments.training_points(frames, seen))
    width = 4 * 17 + 1
    assert picture.shape == (width + grids.LINE, 4 * width + 3 * 16)
    for place, index in enumerate((5, 6, 7, 8)):
        left = place * (width + 16)
        assert (picture[:width, left : left + width] == np.asarray(grids.grid(frames[index, :16], 4))).all()
        assert picture[width:, left : left + width].min() < 128  # its caption
    with pytest.raises(GenlibError, match="9 frames, 2 counts"):
        moments.training_points(frames, [0, 1])


def test_png_bytes_are_bare_and_repeatable(tmp_path: Path) -> None:
    image = grids.grid(noise(4, 3, 8, 8), 2)
    image.info["Software"] = "somebody"
    for name in ("a.png", "b.png"):
        grids.save_png(image, tmp_path / name)
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert b"tEXt" not in data
    assert b"tIME" not in data
    assert (pixels(tmp_path / "a.png") == np.asarray(image)).all()


def test_blank_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GenlibError, match=r"x\.png: the picture is blank"):
        grids.save_png(grids.grid(np.zeros((1, 1, 4, 4), np.uint8), 1, pad=0), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


# Animations


def test_progress_gif_is_exact_for_grey(tmp_path: Path) -> None:
    frames = noise(3, 4, 1, 8, 8)
    animation.progress_gif(frames, [0, 12800, 1_000_000], tmp_path / "p.gif", columns=2, scale=3, seconds_per_frame=0.1)
    with Image.open(tmp_path / "p.gif") as gif:
        assert (gif.info["loop"], gif.n_frames) == (0, 3)  # type: ignore[attr-defined]
        durations = []
        for index, frame in enumerate(ImageSequence.Iterator(gif)):
            expected = np.asarray(grids.grid(frames[index], 2, 3))
            drawn = np.asarray(frame.convert("L"))
            assert (drawn[: len(expected)] == expected).all()
            assert drawn[len(expected) :].min() < 128  # the caption
            durations.append(frame.info["duration"])
    assert durations[:2] == [100, 100]
    assert durations[2] >= 1000


def test_progress_gif_of_colour_is_close(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 16).astype(np.uint8)
    image = np.stack([np.tile(ramp, (16, 1)), np.tile(ramp[:, None], (1, 16)), np.full((16, 16), 90, np.uint8)])
    frames = np.stack([image[None, ::-1], image[None]])
    animation.progress_gif(frames, [0, 1], tmp_path / "p.gif", columns=1, scale=1)
    with Image.open(tmp_path / "p.gif") as gif:
        gif.seek(1)
        drawn = np.asarray(gif.convert("RGB")).astype(int)[1:17, 1:17]
    assert np.abs(drawn - image.transpose(1, 2, 0)).max() <= 24


def test_progress_gif_is_small_and_repeatable(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:28, :28]
    radius = np.hypot(row - 14, column - 14)[None, None] - rng.uniform(5, 10, (30, 36, 1, 1))
    ring = 255 * np.exp(-((radius / 1.5) ** 2))
    frames = ring.astype(np.uint8)[:, :, None]
    frames[:4] = rng.integers(100, 156, frames[:4].shape)  # untrained networks draw grey noise
    for name in ("a.gif", "b.gif"):
        animation.progress_gif(frames, range(30), tmp_path / name, columns=6)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    assert (tmp_path / "a.gif").stat().st_size < 1_500_000


def test_gif_refuses_what_does_not_match(tmp_path: Path) -> None:
    frame = grids.grid(GREY, 5)
    with pytest.raises(GenlibError, match="one caption per frame"):
        animation.save_gif([frame], tmp_path / "x.gif", 0.2, [])
    with pytest.raises(GenlibError, match="one caption per frame"):
        animation.save_gif([], tmp_path / "x.gif", 0.2, [])
    with pytest.raises(GenlibError, match=r"at least 0\.02"):
        animation.save_gif([frame], tmp_path / "x.gif", 0.001, [""])
    assert not list(tmp_path.iterdir())


def test_captions_have_thousands() -> None:
    assert animation.seen_captions([0, 12800]) == ["0 images seen", "12,800 images seen"]


# The latent space


def test_codes_figure_shows_each_class_in_its_colour(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).normal(size=(300, 2))
    labels = np.arange(300) % 2
    latent.codes_figure(codes, labels, CLASSES, tmp_path / "two.png")
    latent.codes_figure(codes, labels, CLASSES, tmp_path / "again.png")
    latent.codes_figure(codes, labels * 0, CLASSES, tmp_path / "one.png")
    two, one = pixels(tmp_path / "two.png"), pixels(tmp_path / "one.png")
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    assert two.shape[1] > 500
    for colour in COLOURS[:3]:
        assert near(two, colour) > 0  # in the legend at least
    assert near(two, COLOURS[1]) > 5 * near(two, COLOURS[2])
    assert near(one, COLOURS[0]) > 1.5 * near(two, COLOURS[0])


def test_limits_are_shared_and_leave_out_only_strays(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).normal(size=(2, 2000, 2))
    codes[0] *= 0.1
    low, high = latent.code_limits(codes)
    assert -4 < low < -2.5
    assert 2.5 < high < 4
    inside = ((codes > low) & (codes < high)).mean()
    assert inside > 0.995
    codes[0, 0] = 1000
    assert latent.code_limits(codes)[1] < 5
    labels = np.zeros(2000, dtype=int)
    latent.codes_figure(codes[0], labels, CLASSES, tmp_path / "tight.png", limits=(-0.4, 0.4))
    latent.codes_figure(codes[0], labels, CLASSES, tmp_path / "wide.png", limits=(low, high))
    assert near(pixels(tmp_path / "tight.png"), COLOURS[0]) > 2 * near(pixels(tmp_path / "wide.png"), COLOURS[0])


def test_codes_gif_moves(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).normal(size=(1, 60, 2)) * np.array([0.05, 0.5, 1.0])[:, None, None]
    latent.codes_gif(codes, np.arange(60) % 3, CLASSES, [0, 10, 20], tmp_path / "c.gif")
    with Image.open(tmp_path / "c.gif") as gif:
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(gif)]
    assert len(frames) == 3
    for before, after in pairwise(frames):
        assert (np.abs(before - after).max(axis=-1) > 100).sum() > 200
    legend = np.s_[:-30, -80:]  # the same place in all frames: the axes do not move
    assert (frames[0][legend] == frames[2][legend]).mean() > 0.95


@pytest.mark.parametrize(
    ("codes", "labels", "classes", "said"),
    [
        (np.zeros((4, 3)), np.zeros(4, int), CLASSES, "codes N 2"),
        (np.zeros((4, 2)), np.zeros(5, int), CLASSES, "labels N"),
        (np.zeros((4, 2)), np.full(4, 3), CLASSES, "indices"),
        (np.zeros((4, 2)), np.full(4, -1), CLASSES, "indices"),
        (np.full((4, 2), np.nan), np.zeros(4, int), CLASSES, "NaN"),
        (np.zeros((4, 2)), np.zeros(4, int), [str(i) for i in range(11)], "at most 10"),
    ],
)
def test_codes_that_cannot_be_drawn(codes: Any, labels: Any, classes: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(GenlibError, match=said):
        latent.codes_figure(codes, labels, classes, tmp_path / "x.png")


def test_manifold_codes_are_even_in_probability() -> None:
    codes = latent.manifold_codes(5, (0.1, 0.9)).reshape(5, 5, 2)
    shares = np.vectorize(NormalDist().cdf)(codes)
    assert shares[0, :, 0] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9], abs=1e-6)
    assert shares[:, 0, 1] == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.1], abs=1e-6)  # upwards
    assert (codes[:, :, 0] == codes[:1, :, 0]).all()
    assert codes.dtype == np.float32
    with pytest.raises(GenlibError, match="side >= 2"):
        latent.manifold_codes(1)
    with pytest.raises(GenlibError, match="low < high"):
        latent.manifold_codes(4, (0.0, 0.9))


def test_manifold_is_the_grid_with_axes() -> None:
    images = noise(100, 1, 28, 28)
    picture = np.asarray(latent.manifold(images, 10))
    square = np.asarray(grids.grid(images, 10, 1, 0))
    left = next(x for x in range(80) if (picture[:280, x : x + 280] == square).all())
    assert picture[:280, :left].min() < 128
    assert picture[280:].min() < 128
    with pytest.raises(GenlibError, match="5 images for a square of 2 x 2"):
        latent.manifold(GREY, 2)


# Plots of numbers


def csv(path: Path, columns: dict[str, list[float]]) -> Path:
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_loss_curves_of_an_autoencoder_and_a_vae(tmp_path: Path) -> None:
    images = [float(count) for count in range(100, 2001, 100)]
    generation = [100 / count + 20 for count in images]
    steps = csv(tmp_path / "steps.csv", {"step": images, "images": images, "generation": generation})
    held_out = {"epoch": [1.0, 2.0], "images": [1000.0, 2000.0], "val_generation": [22.0, 21.0]}
    history = csv(tmp_path / "history.csv", held_out)
    curves.loss_curves(steps, history, tmp_path / "ae.png")
    csv(steps, {"step": images, "images": images, "generation": generation, "latent": generation[::-1]})
    csv(history, held_out | {"val_latent": [5.0, 6.0]})
    curves.loss_curves(steps, history, tmp_path / "vae.png")
    one, two = pixels(tmp_path / "ae.png"), pixels(tmp_path / "vae.png")
    assert two.shape[1] == 2 * one.shape[1]
    for drawn in (one, two[:, : one.shape[1]], two[:, one.shape[1] :]):
        assert near(drawn, COLOURS[0]) > 100  # training
        assert near(drawn, COLOURS[6]) > 100  # held out


def test_loss_curves_of_a_gan(tmp_path: Path) -> None:
    images = [float(count) for count in range(100, 2001, 100)]
    flat = [0.5] * len(images)
    columns = {"step": images, "images": images, "discriminator": flat, "generator": flat, "d_real": flat}
    history = csv(tmp_path / "history.csv", {"epoch": [1.0], "images": [2000.0]})
    steps = csv(tmp_path / "steps.csv", columns | {"d_fake": flat})
    curves.loss_curves(steps, history, tmp_path / "a.png")
    csv(steps, columns | {"d_fake": [0.1] * len(images)})
    curves.loss_curves(steps, history, tmp_path / "b.png")
    a, b = pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png")
    half = a.shape[1] // 2
    assert (a[:, :half] == b[:, :half]).all()
    assert near(b[:, half:], COLOURS[0]) > near(a[:, half:], COLOURS[0])  # no longer hidden by the other curve


def test_what_a_judge_said_of_a_gan_has_panels_of_its_own(tmp_path: Path) -> None:
    images = [float(count) for count in range(100, 2001, 100)]
    flat = [0.5] * len(images)
    names = ("discriminator", "generator", "d_real", "d_fake", "accuracy_real", "accuracy_fake")
    columns = {"step": images, "images": images} | dict.fromkeys(names, flat)
    steps = csv(tmp_path / "steps.csv", columns | {"accuracy_fake": [0.2 + 0.4 * (n % 2) for n in range(len(images))]})
    judged = {"epoch": [1.0, 2.0], "images": [1000.0, 2000.0], "val_fid": [5.0, 7.0], "val_collapse": [0.0, 0.0]}
    drawn = []
    for flags in ([0.0, 0.0], [0.0, 1.0]):
        history = csv(tmp_path / "history.csv", judged | {"val_collapse": flags})
        curves.loss_curves(steps, history, tmp_path / "gan.png")
        drawn.append(pixels(tmp_path / "gan.png"))
    calm, alarmed = drawn
    height, width = calm.shape[0] // 2, calm.shape[1] // 2
    assert near(calm[height:, :width], COLOURS[6]) > 100  # accuracy
    assert near(calm[height:, width:], COLOURS[0]) > 100  # FID
    assert near(calm[height:, width:], COLOURS[6]) > 30  # its best epoch
    assert near(calm, COLOURS[2]) == 0
    assert near(alarmed[height:, width:], COLOURS[2]) > 30  # the epoch with an alarm
    csv(steps, {"step": images, "images": images} | dict.fromkeys(names[:-1], flat))
    with pytest.raises(GenlibError, match=r"steps.csv: no column 'accuracy_fake'"):
        curves.loss_curves(steps, history, tmp_path / "gan.png")


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (None, "no such file; run the train stage"),
        ("step,images,generation\n", "no rows"),
        ("step,images,generation\n1,100,abc\n", "not a number"),
        ("step,images,generation\n1,100\n", "missing or not a number"),
        ("step,images,loss\n1,100,2\n", "no column 'generation'"),
        ("step,images,discriminator\n1,100,2\n", "no column 'generator'"),
        ("step,generation\n1,100\n", "no column 'images'"),
    ],
)
def test_histories_that_cannot_be_drawn(steps: str | None, said: str, tmp_path: Path) -> None:
    history = csv(tmp_path / "history.csv", {"epoch": [1.0], "images": [2000.0], "val_generation": [1.0]})
    if steps is not None:
        (tmp_path / "steps.csv").write_text(steps)
    with pytest.raises(GenlibError, match=said) as caught:
        curves.loss_curves(tmp_path / "steps.csv", history, tmp_path / "x.png")
    assert "steps.csv" in str(caught.value)
    assert not (tmp_path / "x.png").exists()


def test_gradient_variance_bars_grow_with_the_logarithm(tmp_path: Path) -> None:
    def lengths(small: float) -> tuple[int, int]:
        curves.gradient_variance_figure({"trick": small, "score": 1e4}, tmp_path / "v.png")
        drawn = pixels(tmp_path / "v.png")
        return near(drawn, COLOURS[0]), near(drawn, COLOURS[6])

    # The axis begins a decade below the smallest value: one decade of bar against three, then against five.
    for small, decades in ((1e2, 3), (1.0, 5)):
        first, second = lengths(small)
        assert second / first == pytest.approx(decades, rel=0.05)
    trick, score = lengths(0.0)
    assert trick == 0
    assert score > 0
    for wrong in ({}, {"trick": 0.0}, {"trick": -1.0, "score": 1.0}, {"trick": float("nan")}, {"trick": float("inf")}):
        with pytest.raises(GenlibError, match="finite ones"):
            curves.gradient_variance_figure(wrong, tmp_path / "x.png")


def test_a_users_matplotlibrc_changes_nothing(tmp_path: Path) -> None:
    import matplotlib

    curves.gradient_variance_figure({"trick": 1.0, "score": 30.0}, tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        curves.gradient_variance_figure({"trick": 1.0, "score": 30.0}, tmp_path / "b.png")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [("grids", ["matplotlib", "torch"]), ("moments", ["matplotlib", "torch"]), ("neighbours", ["matplotlib", "torch"]),
     ("animation", ["matplotlib", "torch"]),
     ("latent", ["matplotlib.pyplot", "torch"]), ("curves", ["matplotlib.pyplot", "torch"])],
)  # fmt: skip
def test_imports_stay_light(module: str, forbidden: list[str]) -> None:
    code = f"import genlib.figures.{module}, sys; sys.exit(' '.join(m for m in {forbidden!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
