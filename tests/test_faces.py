"""The drawn faces: pinned bytes, CelebA's formats, attributes visible where they belong, and the PNG encoder."""

import struct
import zlib
from hashlib import sha256
from io import BytesIO
from itertools import combinations
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from genlib.data.kinds import faces
from genlib.data.kinds.faces import ATTRIBUTES, draw_faces, draw_factors, encode_png, render
from genlib.errors import GenlibError

COUNTS = (90, 24, 16)
HAIR = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")

# sha256 of the three files for 13 + 5 + 4 images. If one of them changes on any machine, with any NumPy, the dataset is
# another one: nothing computed from the old faces compares with it.
PINNED = {
    "img_align_celeba.zip": "5d68256a4123fa62f74505c9383ac7b95c9643cc167ab12e03eaae2267d43dd9",
    "list_attr_celeba.txt": "ef9df9ede56e00d8e41c842134b5e77cd9a1b7b8365daa064fbed4e805d51f6f",
    "list_eval_partition.txt": "171c8f47f1acc111ef564e19d51d17ed15e56431e1eadec047649a6e3e54c00a",
}

Pixels = npt.NDArray[np.uint8]
Factors = dict[str, npt.NDArray[np.int32]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces") / "new"
    draw_faces(folder, *COUNTS)
    return folder


@pytest.fixture(scope="module")
def images(folder: Path) -> Pixels:
    return read_images(folder)


def read_images(folder: Path) -> Pixels:
    with ZipFile(folder / "img_align_celeba.zip") as archive:
        opened = [Image.open(BytesIO(archive.read(name))) for name in archive.namelist()]
    assert {image.mode for image in opened} == {"RGB"}
    return np.stack([np.asarray(image) for image in opened])


def read_attributes(folder: Path) -> npt.NDArray[np.int64]:
    lines = (folder / "list_attr_celeba.txt").read_text().splitlines()
    return np.array([[int(value) for value in line.split()[1:]] for line in lines[2:]])


def extreme_factors(count: int) -> Factors:
    """Faces whose every factor lies at one of its two ends."""
    random = np.random.RandomState(5)
    factors = draw_factors(count, random)
    ends = {name: random.choice(limits, (count, 1, 1)).astype(np.int32) for name, limits in faces._RANGES.items()}
    return factors | ends


def test_small_sets_are_pinned_bit_for_bit(tmp_path: Path) -> None:
    draw_faces(tmp_path, 13, 5, 4)
    assert {path.name: sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()} == PINNED


def test_zip_holds_numbered_64_pixel_rgb_images(folder: Path, images: Pixels) -> None:
    assert images.shape == (sum(COUNTS), 64, 64, 3)
    with ZipFile(folder / "img_align_celeba.zip") as archive:
        members = archive.infolist()
    assert [member.filename for member in members] == [f"img_align_celeba/{i + 1:06d}.png" for i in range(len(images))]
    for member in members:
        assert member.compress_type == ZIP_STORED
        assert member.date_time == (1980, 1, 1, 0, 0, 0)
        assert (member.create_system, member.external_attr >> 16) == (3, 0o644)


def test_archive_holds_what_render_draws(images: Pixels) -> None:
    start = 0
    for seed, count in enumerate(COUNTS, start=faces._SEED):
        drawn = render(draw_factors(count, np.random.RandomState(seed)))
        np.testing.assert_array_equal(images[start : start + count], drawn)
        start += count


def test_lists_are_in_the_formats_of_celeba(folder: Path) -> None:
    total = sum(COUNTS)
    names = [f"{i + 1:06d}.png" for i in range(total)]
    first, header, *rows = (folder / "list_attr_celeba.txt").read_text().splitlines()
    assert first == str(total)
    assert header.split() == list(ATTRIBUTES) == sorted(set(ATTRIBUTES))
    assert [row.split()[0] for row in rows] == names
    assert {len(row) for row in rows} == {len("000001.png") + 3 * len(ATTRIBUTES)}  # in columns
    assert set(np.unique(read_attributes(folder))) == {-1, 1}
    partition = [line.split() for line in (folder / "list_eval_partition.txt").read_text().splitlines()]
    splits = ["0"] * COUNTS[0] + ["1"] * COUNTS[1] + ["2"] * COUNTS[2]
    assert partition == [list(pair) for pair in zip(names, splits, strict=True)]


def test_lists_name_the_factors_that_were_drawn(folder: Path) -> None:
    written = read_attributes(folder)[COUNTS[0] : COUNTS[0] + COUNTS[1]]
    factors = draw_factors(COUNTS[1], np.random.RandomState(faces._SEED + 1))
    for column, name in enumerate(ATTRIBUTES):
        np.testing.assert_array_equal(written[:, column] == 1, factors[name].ravel() == 1)


def test_attributes_are_common_enough_exclusive_and_otherwise_independent() -> None:
    factors = draw_factors(20_000, np.random.RandomState(3))
    present = {name: factors[name].ravel().astype(bool) for name in ATTRIBUTES}
    assert 12 <= len(present) <= 20
    shares = {name: values.mean() for name, values in present.items()}
    assert 0.10 <= min(shares.values()) <= max(shares.values()) <= 0.60
    assert shares["Eyeglasses"] == pytest.approx(0.25, abs=0.02)
    colours = np.sum([present[name] for name in HAIR], axis=0)
    assert set(np.unique(colours)) == {0, 1}
    assert 0.05 < (colours[~present["Bald"]] == 0).mean() < 0.2  # red hair has no name in CelebA
    for name in ("Bangs", "Long_Hair", "Wavy_Hair", "Wearing_Hat", *HAIR):
        assert not (present["Bald"] & present[name]).any()
    assert not (present["Bangs"] & present["Wearing_Hat"]).any()
    with_hair = ~present["Bald"] & ~present["Wearing_Hat"]
    free = [name for name in ATTRIBUTES if name not in ("Bald", "Wearing_Hat")]
    for one, other in combinations(free, 2):
        if {one, other} - set(HAIR):
            assert abs(np.corrcoef(present[one][with_hair], present[other][with_hair])[0, 1]) < 0.05, (one, other)


def test_fewer_faces_are_the_first_of_more_and_splits_differ(tmp_path: Path, images: Pixels) -> None:
    draw_faces(tmp_path, 3, 7, 2)
    few = read_images(tmp_path)
    np.testing.assert_array_equal(few[:3], images[:3])
    np.testing.assert_array_equal(few[3:10], images[90:97])
    np.testing.assert_array_equal(few[10:], images[114:116])
    assert not np.array_equal(few[:2], few[3:5])
    assert not np.array_equal(few[3:5], few[10:])


# Attribute, the part of the picture (rows, columns) outside of which it must not change anything, and how many pixels
# it must change visibly (a channel by more than 12 grey levels) in each of the faces.
LOCAL = {
    "Bangs": (slice(9, 34), slice(8, 56), 30),
    "Beard": (slice(24, 60), slice(7, 57), 100),
    "Eyeglasses": (slice(18, 42), slice(8, 56), 100),
    "Mouth_Slightly_Open": (slice(35, 58), slice(14, 50), 20),
    "Mustache": (slice(34, 50), slice(14, 50), 10),
    "Smiling": (slice(22, 58), slice(12, 52), 20),
    "Wearing_Hat": (slice(0, 30), slice(0, 64), 300),
    "Wearing_Lipstick": (slice(35, 56), slice(14, 50), 8),
}
GLOBAL = {"Bald": 200, "Long_Hair": 150, "Pale_Skin": 400, "Side_Light": 150, "Turned_Head": 150, "Wavy_Hair": 30}


def without_and_with(name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The same 16 faces without an attribute and with it, none of them bald or wearing a hat or bangs besides."""
    zeros, ones = np.zeros((16, 1, 1), dtype=np.int32), np.ones((16, 1, 1), dtype=np.int32)
    plain = draw_factors(16, np.random.RandomState(8)) | {"Bald": zeros, "Bangs": zeros, "Wearing_Hat": zeros}
    return render(plain | {name: zeros}).astype(np.int64), render(plain | {name: ones}).astype(np.int64)


@pytest.mark.parametrize("name", LOCAL)
def test_attributes_change_the_picture_where_they_belong(name: str) -> None:
    rows, columns, least = LOCAL[name]
    without, with_it = without_and_with(name)
    change = np.abs(with_it - without).max(axis=3)
    assert (change > 12).sum(axis=(1, 2)).min() > least
    change[:, rows, columns] = 0
    assert change.max() == 0


@pytest.mark.parametrize("name", GLOBAL)
def test_attributes_of_the_whole_head_change_it_clearly(name: str) -> None:
    without, with_it = without_and_with(name)
    assert (np.abs(with_it - without).max(axis=3) > 12).sum(axis=(1, 2)).min() > GLOBAL[name]


def test_bushy_eyebrows_darken_the_brows() -> None:
    without, with_it = without_and_with("Bushy_Eyebrows")
    change = np.abs(with_it - without).max(axis=3)
    assert np.median((change > 12).sum(axis=(1, 2))) > 40  # glasses hide some
    assert change.any(axis=(1, 2)).all()
    change[:, 14:34, 8:56] = 0
    assert change.max() == 0


def test_dark_backgrounds_are_dark_and_leave_the_face_alone() -> None:
    without, with_it = without_and_with("Dark_Background")
    light, dark = (picture[:, :8, [0, 1, 62, 63]].mean(axis=(1, 2, 3)) for picture in (without, with_it))
    assert (dark < light - 60).all()
    np.testing.assert_array_equal(with_it[:, 28:42, 26:38], without[:, 28:42, 26:38])


def test_pale_skin_is_paler() -> None:
    without, with_it = without_and_with("Pale_Skin")
    assert (with_it[:, 33:38, 24:40].mean(axis=(1, 2, 3)) > without[:, 33:38, 24:40].mean(axis=(1, 2, 3))).all()


def test_hair_colours_are_those_they_are_called() -> None:
    zeros, ones = np.zeros((24, 1, 1), dtype=np.int32), np.ones((24, 1, 1), dtype=np.int32)
    plain = draw_factors(24, np.random.RandomState(10)) | {"Bald": zeros, "Wearing_Hat": zeros, "Bangs": ones}
    plain |= {f"{name}_roots": zeros for name in HAIR}
    shades = {name: render(plain | {f"{name}_roots": ones})[:, 10:14, 28:36].mean(axis=(1, 2)) for name in HAIR}
    brightness = {name: shade.mean(axis=1) for name, shade in shades.items()}
    assert brightness["Black_Hair"].max() < brightness["Brown_Hair"].min()
    assert brightness["Brown_Hair"].max() < min(brightness["Blond_Hair"].min(), brightness["Gray_Hair"].min())
    yellowness = {name: shade[:, 0] - shade[:, 2] for name, shade in shades.items()}
    assert np.abs(yellowness["Gray_Hair"]).max() < 15 < 40 < yellowness["Blond_Hair"].min()


def test_eyes_lie_at_about_the_same_height() -> None:
    factors = extreme_factors(32)
    colours = [np.full((32, 1, 1), place, dtype=np.int32) for place in (0, 4095)]
    brown, blue = (render(factors | {"iris_colour": colour}).astype(int) for colour in colours)
    change = np.abs(blue - brown).sum(axis=3)
    row = change.sum(axis=2) @ np.arange(64) / change.sum(axis=(1, 2))
    assert np.abs(row - 29).max() < 3.5  # at the ends of everything: nodding as well as shifted
    assert np.abs(row - 29).mean() < 1.5
    left, right = change[:, :, :32].sum(axis=(1, 2)), change[:, :, 32:].sum(axis=(1, 2))
    assert (np.minimum(left, right) > 0.2 * (left + right)).all()  # one on either side


def test_no_shape_is_cut_off_by_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = extreme_factors(32)
    expected = render(factors)
    windows = [name for name, value in vars(faces).items() if isinstance(value, tuple) and isinstance(value[0], slice)]
    assert len(windows) == 7
    for name in windows:
        monkeypatch.setattr(faces, name, (slice(0, 128), slice(0, 128)))
    np.testing.assert_array_equal(render(factors), expected)


def test_32_bits_are_enough() -> None:
    factors = extreme_factors(16)
    np.testing.assert_array_equal(
        render({name: value.astype(np.int64) for name, value in factors.items()}), render(factors)
    )


def test_faces_do_not_depend_on_their_neighbours_in_a_chunk() -> None:
    factors = draw_factors(5, np.random.RandomState(11))
    alone = [render({name: value[i : i + 1] for name, value in factors.items()}) for i in range(5)]
    np.testing.assert_array_equal(np.concatenate(alone), render(factors))


def test_faces_are_varied(images: Pixels) -> None:
    pixels = images.reshape(len(images), -1) / 255
    centred = pixels - pixels.mean(axis=0)
    gram = centred @ centred.T
    squared = np.diag(gram)[:, None] + np.diag(gram) - 2 * gram
    apart = np.sqrt(squared[np.triu_indices(len(images), 1)] / pixels.shape[1])
    assert apart.min() > 0.05  # root mean square difference of the two most similar faces
    eigenvalues = np.linalg.eigvalsh(gram)[::-1]
    assert (np.cumsum(eigenvalues) / eigenvalues.sum() < 0.9).sum() + 1 > 15


def test_the_mean_face_is_a_face(images: Pixels) -> None:
    mean = images.mean(axis=(0, 3))
    brow_to_chin = mean[26:48, 32]
    assert mean[28:31, 20:26].mean() < mean[34:38, 20:26].mean() - 10  # eyes are darker than cheeks
    assert mean[28:31, 38:44].mean() < mean[34:38, 38:44].mean() - 10
    assert brow_to_chin.min() == mean[40:48, 32].min()  # the mouth is darkest
    assert images[:, 2:6, 2:6].mean() != pytest.approx(images[:, 34:38, 28:36].mean(), abs=5)


@pytest.mark.parametrize(
    ("counts", "key"),
    [((0, 5, 5), "train_images"), ((5, -1, 5), "validation_images"), ((5, 5, 50_001), "test_images")],
)
def test_counts_out_of_range_are_refused(tmp_path: Path, counts: tuple[int, int, int], key: str) -> None:
    with pytest.raises(GenlibError, match=rf"^{key}: -?\d+ is out of range; set it to 1 to 50000$"):
        draw_faces(tmp_path / "new", *counts)
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
@example(771, 28, 0)  # exactly one full block
@example(150, 160, 1)  # more than one
def test_png_files_decode_to_their_pixels(height: int, width: int, seed: int) -> None:
    image = np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8)
    encoded = encode_png(image)
    with Image.open(BytesIO(encoded)) as opened:
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), image)


def test_png_chunks_are_whole_and_uncompressed() -> None:
    image = np.random.RandomState(0).randint(0, 256, (150, 160, 3), dtype=np.uint8)
    encoded = encode_png(image)
    assert encoded[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, rest = {}, encoded[8:]
    while rest:
        (length,) = struct.unpack(">I", rest[:4])
        kind, body, checksum = rest[4:8], rest[8 : 8 + length], rest[8 + length : 12 + length]
        assert checksum == struct.pack(">I", zlib.crc32(kind + body))
        chunks[kind] = body
        rest = rest[12 + length :]
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    data = zlib.decompress(chunks[b"IDAT"])  # checks the Adler-32 checksum, too
    assert len(data) == 150 * (1 + 160 * 3)
    assert len(chunks[b"IDAT"]) == len(data) + 2 + 2 * 5 + 4  # header, two stored blocks, checksum
