"""LFW from small archives in its format, and from the mirror where there is one."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import archives
import numpy as np
import pytest
from archives import LFW_TEST, LFW_TRAIN, assert_clear, lfw_members, shrunk, tgz, write_lfw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genlib.data.arrays import open_card, open_split
from genlib.data.processed import preprocess
from genlib.data.readers.lfw import choose_people, read_people
from genlib.data.sources import provide_dataset
from genlib.errors import GenlibError
from genlib.settings import LfwSettings, LfwSource

BOX = (10, 10, 40, 40)  # the central 30 x 30 of frames of 50 x 50


def asked(crop: int = 30, validation_images: int = 3, image_size: int = 8) -> LfwSettings:
    source = LfwSource(kind="lfw")
    return LfwSettings(source=source, image_size=image_size, crop=crop, validation_images=validation_images)


def refusal(raw: Path, wanted: LfwSettings | None = None) -> str:
    """The one line that preprocessing ends in; nothing may be written."""
    with pytest.raises(GenlibError) as caught:
        preprocess("lfw", wanted or asked(), raw, raw.parent.parent / "processed" / "lfw")
    assert not (raw.parent.parent / "processed").exists() or not any((raw.parent.parent / "processed").iterdir())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def people_of(out: Path, split: str) -> list[str]:
    names = json.loads((out / "people.json").read_text())
    return [names[label] for label in open_split(out, split).labels]


def spread(people: dict[str, int]) -> list[str]:
    return [person for person, images in people.items() for _ in range(images)]


def held_out(images: int) -> set[str]:
    """The validation people, found by hand: the shortest beginning of the order that has enough images."""
    order = sorted(LFW_TRAIN, key=lambda person: sha256(person.encode()).hexdigest())
    return next(set(order[:n]) for n in range(len(order)) if sum(LFW_TRAIN[person] for person in order[:n]) >= images)


def test_splits_labels_and_pictures(tmp_path: Path) -> None:
    raw, out = write_lfw(tmp_path), tmp_path / "out"
    preprocess("lfw", asked(), raw, out)
    members = lfw_members({**LFW_TRAIN, **LFW_TEST})
    val = held_out(3)
    assert 0 < len(val) < len(LFW_TRAIN)
    expected = {
        "train": {person: images for person, images in LFW_TRAIN.items() if person not in val},
        "val": {person: images for person, images in LFW_TRAIN.items() if person in val},
        "test": LFW_TEST,
    }
    assert json.loads((out / "people.json").read_text()) == sorted({**LFW_TRAIN, **LFW_TEST})
    for split, people in expected.items():
        assert people_of(out, split) == spread(people)
        names = [f"lfw-deepfunneled/{p}/{p}_{n + 1:04d}.jpg" for p, images in people.items() for n in range(images)]
        pictures = np.stack([shrunk(members[name], BOX, 8) for name in names])
        np.testing.assert_array_equal(open_split(out, split).images, pictures)


def test_the_card(tmp_path: Path) -> None:
    raw, out = write_lfw(tmp_path), tmp_path / "out"
    card = preprocess("lfw", asked(), raw, out)
    assert card == open_card(out)
    val = held_out(3)
    images = sum(LFW_TRAIN[person] for person in val)
    assert (card["people"], card["labels"], card["classes"], card["channels"]) == (True, "people", [], 3)
    assert card["counts"] == {"train": 11 - images, "val": images, "test": 3}
    assert card["people_counts"] == {"train": 5 - len(val), "val": len(val), "test": 2}
    assert card["class_counts"] == {"train": [], "val": [], "test": []}
    assert (card["crop"], card["resize"]) == ("central 30 x 30 of 50 x 50", "lanczos from 30")
    assert card["edition"] == (
        "5 people with 11 images in peopleDevTrain.txt instead of 4,038 with 9,525, "
        "2 people with 3 images in peopleDevTest.txt instead of 1,711 with 3,708, "
        "frames of 50 x 50 instead of 250 x 250"
    )
    pixels = open_split(out, "train").images.astype(np.float64) / 255
    assert card["mean"] == pytest.approx(pixels.mean(axis=(0, 2, 3)), abs=1e-6)
    assert card["std"] == pytest.approx(pixels.std(axis=(0, 2, 3)), abs=1e-6)
    arrays = {f"{split}{kind}.npy" for split in ("train", "val", "test") for kind in ("", "_labels")}
    assert card["sha256"] == {name: sha256((out / name).read_bytes()).hexdigest() for name in arrays}
    assert {path.name for path in out.iterdir()} == arrays | {"card.json", "people.json"}


def test_no_crop_and_no_resize(tmp_path: Path) -> None:
    card = preprocess("lfw", asked(crop=50, image_size=50), write_lfw(tmp_path), tmp_path / "out")
    assert (card["crop"], card["resize"]) == (None, None)
    members = lfw_members({**LFW_TRAIN, **LFW_TEST})
    first = members["lfw-deepfunneled/Fay_Fir/Fay_Fir_0001.jpg"]
    np.testing.assert_array_equal(
        open_split(tmp_path / "out", "test").images[0], archives.decoded(first).transpose(2, 0, 1)
    )


def test_the_order_of_the_archive_and_the_name_of_its_folder_do_not_matter(tmp_path: Path) -> None:
    members = list(lfw_members({**LFW_TRAIN, **LFW_TEST}).items())
    shuffled = [members[i] for i in np.random.default_rng(1).permutation(len(members))]
    other = {f"./any//{name.partition('/')[2]}": content for name, content in shuffled}
    preprocess("lfw", asked(), write_lfw(tmp_path / "a"), tmp_path / "a" / "out")
    preprocess("lfw", asked(), write_lfw(tmp_path / "b", members=other), tmp_path / "b" / "out")
    for path in (tmp_path / "a" / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "out" / path.name).read_bytes()


def test_people_in_neither_list_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = {**lfw_members({**LFW_TRAIN, **LFW_TEST}), **lfw_members({"Zoe": 2})}
    preprocess("lfw", asked(), write_lfw(tmp_path / "a", members=members), tmp_path / "a" / "out")
    assert "lfw-deepfunneled.tgz: 2 images of people in neither list are left out" in capsys.readouterr().err
    preprocess("lfw", asked(), write_lfw(tmp_path / "b"), tmp_path / "b" / "out")
    assert "left out" not in capsys.readouterr().err
    for path in (tmp_path / "a" / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "out" / path.name).read_bytes()


@pytest.mark.parametrize("workers", ["1", "2", "5"])
def test_the_number_of_workers_does_not_matter(tmp_path: Path, workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    people = {f"P{number:03d}": 1 + number % 3 for number in range(60)}
    raw = write_lfw(tmp_path, train=people)
    monkeypatch.delenv("GENLIB_WORKERS", raising=False)
    preprocess("lfw", asked(), raw, tmp_path / "default")
    monkeypatch.setenv("GENLIB_WORKERS", workers)
    preprocess("lfw", asked(), raw, tmp_path / "out")
    for path in (tmp_path / "default").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "99999", "²"])
def test_a_number_of_workers_that_is_none(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_WORKERS", value)
    assert refusal(write_lfw(tmp_path)).startswith(f"GENLIB_WORKERS: {value!r} is not a whole number")


class TestRefused:
    def test_a_person_without_images(self, tmp_path: Path) -> None:
        members = lfw_members({**LFW_TRAIN, "Fay_Fir": 2})
        message = refusal(write_lfw(tmp_path, members=members))
        assert "peopleDevTest.txt: Gus_Gum has 1 images, but lfw-deepfunneled.tgz holds 0 of them; delete it" in message
        assert "dvc repro --force download@lfw" in message

    def test_a_person_with_fewer_images(self, tmp_path: Path) -> None:
        members = lfw_members({**LFW_TRAIN, **LFW_TEST})
        del members["lfw-deepfunneled/Dee_Dogwood/Dee_Dogwood_0002.jpg"]
        message = refusal(write_lfw(tmp_path, members=members))
        assert "peopleDevTrain.txt: Dee_Dogwood has 4 images, but lfw-deepfunneled.tgz holds 3" in message

    @pytest.mark.parametrize("number", ["0000", "0004"])
    def test_a_person_with_more_images(self, number: str, tmp_path: Path) -> None:
        members = lfw_members({**LFW_TRAIN, **LFW_TEST})
        members[f"lfw-deepfunneled/Ann_Ash/Ann_Ash_{number}.jpg"] = archives.encoded(archives.drawn(99, 50, 50))
        message = refusal(write_lfw(tmp_path, members=members))
        assert f"member 'lfw-deepfunneled/Ann_Ash/Ann_Ash_{number}.jpg', but peopleDevTrain.txt says" in message

    def test_a_person_in_both_lists(self, tmp_path: Path) -> None:
        message = refusal(write_lfw(tmp_path, test={**LFW_TEST, "Cai_Cedar": 2}))
        assert "peopleDevTest.txt: Cai_Cedar is in peopleDevTrain.txt, too" in message

    @pytest.mark.parametrize(
        "name",
        [
            "lfw-deepfunneled/readme.txt",
            "other/Zoe/Zoe_0001.jpg",
            "lfw-deepfunneled/Zoe/Yan_0001.jpg",
            "lfw-deepfunneled/Zoe/Zoe_1.jpg",
            "lfw-deepfunneled/Zoe/Zoe_0001.png",
            "Zoe/Zoe_0001.jpg",
        ],
    )
    def test_a_member_that_is_no_image_of_a_person(self, name: str, tmp_path: Path) -> None:
        members = {**lfw_members({**LFW_TRAIN, **LFW_TEST}), name: b"?"}
        assert f"lfw-deepfunneled.tgz: member '{name}' is not <one folder>/NAME" in refusal(
            write_lfw(tmp_path, members=members)
        )

    def test_an_image_of_another_frame(self, tmp_path: Path) -> None:
        members = lfw_members({**LFW_TRAIN, **LFW_TEST})
        name = "lfw-deepfunneled/Ede/Ede_0001.jpg"
        members[name] = archives.encoded(archives.drawn(0, 50, 51))
        assert f"member '{name}' has 50 x 51 pixels, not 50 x 50" in refusal(write_lfw(tmp_path, members=members))

    def test_a_grey_image(self, tmp_path: Path) -> None:
        members = lfw_members({**LFW_TRAIN, **LFW_TEST})
        name = "lfw-deepfunneled/Ede/Ede_0001.jpg"
        members[name] = archives.encoded(archives.drawn(0, 50, 50)[:, :, 0])
        assert f"member '{name}' has colours of mode Gray, not RGB" in refusal(write_lfw(tmp_path, members=members))

    def test_a_crop_larger_than_the_frame(self, tmp_path: Path) -> None:
        message = refusal(write_lfw(tmp_path), asked(crop=51))
        assert message == "params.yaml: data.lfw.crop: comes to 51 pixels in frames of 50 x 50; choose another"

    @pytest.mark.parametrize("images", [11, 12, 1000])
    def test_nobody_left_to_train_on(self, images: int, tmp_path: Path) -> None:
        message = refusal(write_lfw(tmp_path), asked(validation_images=images))
        assert message.startswith(f"params.yaml: data.lfw.validation_images: {images} leaves nobody of the 5 people")

    @pytest.mark.parametrize("name", ["peopleDevTest.txt", "lfw-deepfunneled.tgz", "origin.json"])
    def test_a_file_that_is_not_there(self, name: str, tmp_path: Path) -> None:
        raw = write_lfw(tmp_path)
        (raw / name).unlink()
        assert f"{raw / name}: no such file" in refusal(raw)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("2\nAnn\t1\n", "line 1: '2', but there are 1 people"),
        ("Ann\t1\n", "line 1: 'Ann\\t1', but there are 0 people"),
        ("", "line 1: '', but there are 0 people"),
        ("0\n", "0 images, not 1 to"),
        ("1\nAnn\n", "line 2: 'Ann' is not NAME<tab>IMAGES"),
        ("1\nAnn\t0\n", "line 2: 'Ann\\t0' is not"),
        ("1\nAnn\t-1\n", "line 2"),
        ("1\nAnn\t1\t1\n", "line 2"),
        ("1\nAnn Ash\t1\n", "line 2"),
        ("1\n../Ann\t1\n", "line 2"),
        ("1\nAnn\t٣\n", "line 2"),
        ("2\n\nAnn\t1\n", "line 2: '' is not"),
        ("2\nAnn\t1\nAnn\t1\n", "line 3: Ann is there twice"),
        ("2\nAnn\t999999\nBob\t2\n", "1000001 images, not 1 to 1000000"),
        ("1\n" + "x" * 5000 + "\n", "line 2: 'xxx"),
        ("<html>\nno\n</html>\n", "line 2: 'no' is not"),
    ],
)
def test_a_list_that_is_malformed(text: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "people.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(GenlibError) as caught:
        read_people(path)
    assert str(caught.value).startswith(f"{path}: {fault}")
    assert "; delete it and run dvc repro --force" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_list_with_other_line_ends(tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_bytes(b"2\r\nAnn\t1\r\nJos\xc3\xa9\t2\r\n\r\n")
    assert read_people(tmp_path / "people.txt") == {"Ann": 1, "José": 2}


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=60) | st.text("019 \t\r\nAn\x0b\x85\u2028", max_size=40).map(str.encode))
def test_any_list_is_read_or_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "people.txt"
    path.write_bytes(content)
    try:
        people = read_people(path)
    except GenlibError as error:
        assert_clear(str(error), path)
    else:
        assert content.split()[0] == str(len(people)).encode().rjust(len(content.split()[0]), b"0")
        assert min(people.values()) >= 1


@given(
    people=st.dictionaries(st.text("abcdef", min_size=1), st.integers(1, 9), min_size=1, max_size=20),
    images=st.integers(1, 60),
)
def test_people_are_chosen_whole_and_no_more_than_needed(people: dict[str, int], images: int) -> None:
    chosen = choose_people(people, images)
    order = sorted(people, key=lambda person: sha256(person.encode()).hexdigest())
    assert chosen == set(order[: len(chosen)])
    assert sum(people[person] for person in chosen) >= images or chosen == set(people)
    assert sum(people[person] for person in order[: len(chosen) - 1]) < images
    assert choose_people(dict(reversed(people.items())), images) == chosen


_REAL = os.environ.get("GENLIB_MIRROR", "")


@pytest.mark.skipif(not _REAL, reason="GENLIB_MIRROR names no mirror")
def test_real_mirror(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "lfw"
    provide_dataset(LfwSource(kind="lfw"), "lfw", raw, tmp_path / "work")
    origin: dict[str, Any] = json.loads((raw / "origin.json").read_text())
    assert [file["verified"] in ("archive", "content") for file in origin["files"]] == [True] * 3
    card = preprocess("lfw", asked(crop=128, validation_images=900, image_size=16), raw, out)
    assert sum(card["counts"].values()) == 13_233
    assert card["counts"]["train"] + card["counts"]["val"] == 9525
    assert card["counts"]["test"] == 3708
    assert 900 <= card["counts"]["val"] < 900 + 530  # the most images of one person
    assert card["people_counts"]["train"] + card["people_counts"]["val"] == 4038
    assert card["people_counts"]["test"] == 1711
    assert card["edition"] is None
    sides = [set(open_split(out, split).labels.tolist()) for split in ("train", "val", "test")]
    assert len(set.union(*sides)) == sum(len(side) for side in sides) == 5749
    assert all(open_split(out, split).images.max(axis=(1, 2, 3)).min() > 0 for split in ("train", "val", "test"))


def test_a_tar_without_gzip_is_refused(tmp_path: Path) -> None:
    archive = tgz(lfw_members(LFW_TEST), kind="")
    assert "lfw-deepfunneled.tgz: not a gzip file" in refusal(write_lfw(tmp_path, archive=archive))
