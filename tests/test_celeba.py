"""CelebA from small archives in its format, and from the mirror where there is one."""

import os
import re
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from archives import (
    ATTRIBUTES,
    ORIGIN,
    Members,
    assert_clear,
    attribute_rows,
    celeba_lists,
    celeba_members,
    celeba_names,
    decoded,
    drawn,
    encoded,
    shrunk,
    write_celeba,
    zipped,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genlib.data.arrays import open_card, open_split
from genlib.data.processed import preprocess
from genlib.data.readers.celeba import read_attributes, read_numbers
from genlib.data.sources import provide_dataset
from genlib.errors import GenlibError
from genlib.settings import CelebaSettings, CelebaSource, FacesSource

SPLITS = (0, 0, 0, 0, 0, 1, 1, 2, 2, 2)
NAMES = celeba_names(10)
MEMBERS = celeba_members(NAMES)
ATTR, PARTITION, IDENTITY = "list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt"


def asked(crop: int = 178, limit: int | None = None, image_size: int = 8, kind: str = "celeba") -> CelebaSettings:
    faces = FacesSource(kind="faces", train_images=5, validation_images=2, test_images=3)
    source = faces if kind == "faces" else CelebaSource(kind="celeba")
    return CelebaSettings(source=source, image_size=image_size, crop=crop, limit=limit)


def refusal(raw: Path, wanted: CelebaSettings | None = None) -> str:
    """The one line that preprocessing ends in; nothing may be written."""
    out = raw.parent.parent / "processed" / "celeba"
    with pytest.raises(GenlibError) as caught:
        preprocess("celeba", wanted or asked(), raw, out)
    assert not out.parent.exists() or not any(out.parent.iterdir())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows(split: int, splits: tuple[int, ...] = SPLITS) -> list[int]:
    return [row for row, other in enumerate(splits) if other == split]


@pytest.mark.parametrize("splits", [SPLITS, (2, 0, 1, 0, 2, 0, 1, 0, 0, 2)])
def test_splits_labels_and_pictures(splits: tuple[int, ...], tmp_path: Path) -> None:
    preprocess("celeba", asked(), write_celeba(tmp_path, splits), tmp_path / "out")
    for number, name in enumerate(("train", "val", "test")):
        chosen = rows(number, splits)
        split = open_split(tmp_path / "out", name)
        pictures = [shrunk(MEMBERS[f"img_align_celeba/{NAMES[row]}"], (0, 20, 178, 198), 8) for row in chosen]
        np.testing.assert_array_equal(split.images, np.stack(pictures))
        np.testing.assert_array_equal(split.labels, attribute_rows(10)[chosen])
        people = np.load(tmp_path / "out" / f"{name}_people.npy", allow_pickle=False)
        assert people.dtype == np.int64
        assert people.tolist() == [100 + row // 2 for row in chosen]


def test_the_card(tmp_path: Path) -> None:
    out = tmp_path / "out"
    card = preprocess("celeba", asked(), write_celeba(tmp_path), out)
    assert card == open_card(out)
    assert (card["people"], card["labels"], card["classes"]) == (True, "attributes", list(ATTRIBUTES))
    assert (card["origin"], card["channels"], card["image_size"]) == (ORIGIN, 3, 8)
    assert card["counts"] == {"train": 5, "val": 2, "test": 3}
    assert card["people_counts"] == {"train": 3, "val": 2, "test": 2}
    assert card["class_counts"] == {
        name: attribute_rows(10)[rows(number)].sum(axis=0).tolist()
        for number, name in enumerate(("train", "val", "test"))
    }
    assert (card["crop"], card["resize"]) == ("central 178 x 178 of 178 x 218", "lanczos from 178")
    assert card["edition"] == "10 of the 202,599 images, split by the mirror's own list"
    kinds = ("", "_labels", "_people")
    arrays = {f"{split}{kind}.npy" for split in ("train", "val", "test") for kind in kinds}
    assert card["sha256"] == {name: sha256((out / name).read_bytes()).hexdigest() for name in arrays}
    assert {path.name for path in out.iterdir()} == arrays | {"card.json"}


@pytest.mark.parametrize(
    ("frame", "crop", "words"),
    [
        ((178, 218), 108, "central 108 x 108 of 178 x 218"),
        ((89, 109), 178, "central 89 x 89 of 89 x 109"),
        ((89, 109), 108, "central 54 x 54 of 89 x 109"),
        ((89, 109), 1, "comes to 0 pixels"),
        ((89, 80), 178, "comes to 89 pixels in frames of 89 x 80"),
    ],
)
def test_the_crop_is_scaled_with_the_frame(frame: tuple[int, int], crop: int, words: str, tmp_path: Path) -> None:
    raw = write_celeba(tmp_path, members=celeba_members(NAMES, frame))
    if "comes to" in words:
        assert f"params.yaml: data.celeba.crop: {words}" in refusal(raw, asked(crop=crop))
    else:
        card = preprocess("celeba", asked(crop=crop), raw, tmp_path / "out")
        assert card["crop"] == words
        frames = "" if frame == (178, 218) else f"frames of {frame[0]} x {frame[1]} instead of 178 x 218, "
        assert card["edition"] == f"10 of the 202,599 images, {frames}split by the mirror's own list"


def test_an_official_beginning_is_split_officially(tmp_path: Path) -> None:
    """Names decide: image 162,771 is the first of validation."""
    names = ["000001.jpg", "162770.jpg", "162771.jpg", "182637.jpg", "182638.jpg", "202599.jpg"]
    for splits, own in (((0, 0, 1, 1, 2, 2), ""), ((0, 1, 1, 1, 2, 2), ", split by the mirror's own list")):
        raw = write_celeba(tmp_path, (0,) * 6, celeba_lists(names, splits), celeba_members(names))
        assert preprocess("celeba", asked(), raw, tmp_path / "out")["edition"] == "6 of the 202,599 images" + own


@pytest.mark.parametrize("limit", [1, 2, 4, 100])
def test_limit_takes_the_first_of_each_split(limit: int, tmp_path: Path) -> None:
    preprocess("celeba", asked(), write_celeba(tmp_path), tmp_path / "all")
    card = preprocess("celeba", asked(limit=limit), write_celeba(tmp_path), tmp_path / "out")
    assert card["counts"] == {"train": min(limit, 5), "val": min(limit, 2), "test": min(limit, 3)}
    assert card["edition"].endswith(f"only the first {limit} images of each split")
    for split in ("train", "val", "test"):
        whole, part = open_split(tmp_path / "all", split), open_split(tmp_path / "out", split)
        np.testing.assert_array_equal(part.images, whole.images[:limit])
        np.testing.assert_array_equal(part.labels, whole.labels[:limit])


def test_faces_are_no_edition_of_anything(tmp_path: Path) -> None:
    """The drawn ones: PNG, square, the whole frame, nobody's identity."""
    names = celeba_names(10, "png")
    members = celeba_members(names, (16, 16))
    raw = write_celeba(tmp_path, lists=celeba_lists(names, SPLITS), members=members)
    (raw / IDENTITY).unlink()
    card = preprocess("faces", asked(kind="faces", image_size=16, limit=4), raw, tmp_path / "out")
    assert (card["people"], card["edition"], card["people_counts"]) == (False, None, None)
    assert (card["crop"], card["resize"], card["labels"]) == (None, None, "attributes")
    assert not list((tmp_path / "out").glob("*_people.npy"))
    expected = np.stack([decoded(members[f"img_align_celeba/{name}"]).transpose(2, 0, 1) for name in names[:4]])
    np.testing.assert_array_equal(open_split(tmp_path / "out", "train").images, expected)


def same_arrays(one: Path, other: Path) -> bool:
    return all(path.read_bytes() == (other / path.name).read_bytes() for path in one.glob("*.npy"))


def test_where_the_members_are_does_not_matter(tmp_path: Path) -> None:
    preprocess("celeba", asked(), write_celeba(tmp_path), tmp_path / "out")
    plain = {name.rpartition("/")[2]: content for name, content in MEMBERS.items()}
    variants: list[Members] = [plain, dict(reversed(MEMBERS.items())), {**MEMBERS, "notes/000001.jpg": b"?", "x/": b""}]
    for number, members in enumerate(variants):
        preprocess("celeba", asked(), write_celeba(tmp_path / str(number), members=members), tmp_path / "other")
        assert same_arrays(tmp_path / "out", tmp_path / "other")
    deflated = write_celeba(tmp_path / "deflated", archive=zipped(MEMBERS, method=8))
    preprocess("celeba", asked(), deflated, tmp_path / "other")
    assert same_arrays(tmp_path / "out", tmp_path / "other")


LISTS = celeba_lists(NAMES, SPLITS)


def swapped(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        (ATTR, swapped(LISTS[ATTR], "10\n", "11\n"), "line 1: '11', but there are 10 images"),
        (ATTR, swapped(LISTS[ATTR], "Smiling", "Young"), "line 2 does not name the attributes, each once"),
        (ATTR, "10", "line 2 does not name the attributes"),
        (
            ATTR,
            swapped(LISTS[ATTR], "000004.jpg ", "000004.jpg 1 "),
            "line 6: 000004.jpg has not a 1 or -1 for each of the 3",
        ),
        (ATTR, re.sub("(000004.jpg.*)1", r"\1 0", LISTS[ATTR]), "line 6: 000004.jpg has not a 1 or -1"),
        (ATTR, swapped(LISTS[ATTR], "000004.jpg", "000003.jpg"), "line 6: 000003.jpg is there twice"),
        (ATTR, swapped(LISTS[ATTR], "000004.jpg", "../4.jpg"), "line 6: '../4.jpg' names no .jpg or .png"),
        (ATTR, swapped(LISTS[ATTR], "000004.jpg", "000004.gif"), "line 6: '000004.gif' names no .jpg or .png"),
        (PARTITION, swapped(LISTS[PARTITION], "000004.jpg 0", "000004.jpg 3"), "line 4: partition 3 is not 0, 1 or 2"),
        (PARTITION, swapped(LISTS[PARTITION], "000004.jpg 0", "000004.jpg"), "line 4: '000004.jpg' is not NAME NUMBER"),
        (
            PARTITION,
            swapped(LISTS[PARTITION], "000004.jpg 0\n", ""),
            "line 4: '000005.jpg', but list_attr_celeba.txt has 000004",
        ),
        (PARTITION, swapped(LISTS[PARTITION], "000010.jpg 2\n", ""), "9 lines, but list_attr_celeba.txt has 10 images"),
        (PARTITION, LISTS[PARTITION] + "000011.jpg 2\n", "11 lines, but list_attr_celeba.txt has 10 images"),
        (PARTITION, LISTS[PARTITION].replace(" 1\n", " 0\n"), "no image in partition 1 (val)"),
        (PARTITION, LISTS[PARTITION].replace(" 0\n", " 2\n"), "no image in partition 0 (train)"),
        (
            IDENTITY,
            swapped(LISTS[IDENTITY], "000002.jpg", "000001.jpg"),
            "line 2: '000001.jpg', but list_attr_celeba.txt has",
        ),
        (
            IDENTITY,
            swapped(LISTS[IDENTITY], "000002.jpg 100", "000002.jpg x"),
            "line 2: '000002.jpg x' is not NAME NUMBER",
        ),
    ],
)
def test_lists_that_are_malformed_or_disagree(name: str, text: str, fault: str, tmp_path: Path) -> None:
    raw = write_celeba(tmp_path, lists={name: text})
    (raw / "img_align_celeba.zip").write_bytes(b"never opened")
    message = refusal(raw)
    assert message.startswith(f"{raw / name}: {fault}")
    assert "; delete it and run dvc repro --force download@celeba" in message


class TestRefused:
    def test_a_listed_image_that_is_not_in_the_archive(self, tmp_path: Path) -> None:
        members = {name: content for name, content in MEMBERS.items() if "000007" not in name}
        message = refusal(write_celeba(tmp_path, members=members))
        assert (
            "img_align_celeba.zip: no member img_align_celeba/000007.jpg, which list_attr_celeba.txt lists" in message
        )

    def test_an_image_that_is_there_twice(self, tmp_path: Path) -> None:
        message = refusal(write_celeba(tmp_path, members={**MEMBERS, "000007.jpg": b"?"}))
        assert "member '000007.jpg' is there as 'img_align_celeba/000007.jpg', too" in message

    def test_an_image_of_another_frame(self, tmp_path: Path) -> None:
        name = "img_align_celeba/000007.jpg"
        message = refusal(write_celeba(tmp_path, members={**MEMBERS, name: encoded(drawn(0, 178, 217))}))
        assert f"img_align_celeba.zip: member '{name}' has 178 x 217 pixels, not 178 x 218" in message

    def test_an_image_of_another_format(self, tmp_path: Path) -> None:
        name = "img_align_celeba/000007.jpg"
        message = refusal(write_celeba(tmp_path, members={**MEMBERS, name: encoded(drawn(0, 178, 218), "PNG")}))
        assert f"member '{name}' is not a JPEG image (starts with b'\\x89PNG" in message

    @pytest.mark.parametrize("name", [ATTR, PARTITION, "img_align_celeba.zip", "origin.json"])
    def test_a_file_that_is_not_there(self, name: str, tmp_path: Path) -> None:
        raw = write_celeba(tmp_path)
        (raw / name).unlink()
        assert f"{raw / name}: no such file" in refusal(raw)

    def test_a_list_that_is_no_text(self, tmp_path: Path) -> None:
        raw = write_celeba(tmp_path)
        (raw / ATTR).write_bytes(b"10\n\xff")
        assert f"{raw / ATTR}: byte 3 is no text; delete it" in refusal(raw)


LINES = st.text("01-2 ab.jpgn\r\n\x0b\x1c\u2028", max_size=60).map(str.encode) | st.binary(max_size=60)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=LINES | LINES.map(lambda tail: b"1\nA B\na.jpg 1 " + tail))
def test_any_attributes_are_read_or_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(content)
    try:
        names, attributes, values = read_attributes(path)
    except GenlibError as error:
        assert_clear(str(error), path)
    else:
        assert values.shape == (len(set(names)), len(set(attributes)))
        assert set(np.unique(values)) <= {0, 1}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=LINES | LINES.map(lambda tail: b"a.jpg 1\nb.jpg 2" + tail))
def test_any_numbers_are_read_or_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(content)
    try:
        numbers = read_numbers(path, ["a.jpg", "b.jpg"])
    except GenlibError as error:
        assert_clear(str(error), path)
    else:
        first, one, second, two = content.decode().split()
        assert (first, second) == ("a.jpg", "b.jpg")
        assert numbers.tolist() == [int(one), int(two)]


_REAL = os.environ.get("GENLIB_MIRROR", "")


@pytest.mark.skipif(not _REAL, reason="GENLIB_MIRROR names no mirror")
def test_real_mirror(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "celeba"
    provide_dataset(CelebaSource(kind="celeba"), "celeba", raw, tmp_path / "work")
    card = preprocess("celeba", asked(image_size=16), raw, out)
    if card["edition"] is None:
        assert card["counts"] == {"train": 162_770, "val": 19_867, "test": 19_962}
        return
    assert card["edition"] == (
        "10,000 of the 202,599 images, frames of 89 x 109 instead of 178 x 218, split by the mirror's own list"
    )
    assert card["counts"] == {"train": 8000, "val": 500, "test": 1500}
    assert len(card["classes"]) == 40
    lines = (raw / ATTR).read_text().splitlines()
    smiling = lines[1].split().index("Smiling")
    expected = [int(line.split()[1 + smiling] == "1") for line in lines[2:8002]]
    assert open_split(out, "train").labels[:, smiling].tolist() == expected
    assert card["class_counts"]["train"][smiling] == sum(expected)
