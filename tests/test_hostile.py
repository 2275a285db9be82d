"""Files from strangers: each is read or refused in one short line, in little memory and time, and writes nothing.

What the fuzzers in fuzz/ found is here, too, each case made small.
"""

import gzip
import io
import json
import random
import struct
import tarfile
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import (
    LFW_TEST,
    LFW_TRAIN,
    celeba_lists,
    celeba_members,
    celeba_names,
    drawn,
    encoded,
    lfw_members,
    people_list,
    tgz,
    zipped,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor

from genlib import features, models, objectives, params, training
from genlib.checkpoint import Keeper
from genlib.data.arrays import Images, open_array, open_card, open_split
from genlib.data.idx import SIZE_LIMIT_BYTES, read_idx
from genlib.data.mirror import parse_sums
from genlib.data.readers import celeba, lfw, mnist, reading
from genlib.data.readers import members as limits
from genlib.data.readers.decode import MAX_SCANS, Shape, frame_of, pixels
from genlib.data.readers.reading import Picture
from genlib.data.readers.tgz import read_tgz
from genlib.data.readers.zip import open_zip
from genlib.errors import GenlibError
from genlib.files import JSON_BYTES, read_json
from genlib.models import weights
from genlib.settings import (
    CelebaSettings,
    CelebaSource,
    IdxSettings,
    LfwSettings,
    LfwSource,
    MnistSource,
    ProgressSettings,
    RunSettings,
)

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
CPU = torch.device("cpu")
Small = Callable[..., RunSettings]


def refusal(run: Callable[[], object]) -> str:
    """The message of the GenlibError: short, and in one printable line."""
    with pytest.raises(GenlibError) as caught:
        run()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 2000
    return message


def settled(run: Callable[[], object]) -> None:
    """It ends well, or as `refusal` wants it."""
    message = ""
    try:
        run()
    except GenlibError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 2000


@contextmanager
def frugal(most: int) -> Iterator[None]:
    """No more than `most` bytes are allocated by Python and numpy, and 10 s pass."""
    began = time.perf_counter()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most
    assert time.perf_counter() - began < 10


# Numbers in idx archives


def announced(*shape: int) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)


def test_labels_of_a_few_kilobytes_that_unpack_to_gigabytes(tmp_path: Path) -> None:
    """A million labels and one, each of an image of one pixel: as int64 they would take eight times as much."""
    count = limits.MEMBERS + 1
    for name in ("train", "t10k"):
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(announced(count, 1, 1) + bytes(count), 1))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(announced(count) + bytes(count), 1))
    chosen = IdxSettings(source=MnistSource(kind="mnist"), image_size=28, validation_images=1)
    with frugal(8 * MIB):
        assert f"{count} images, more than {limits.MEMBERS}" in refusal(lambda: mnist.read("mnist", chosen, tmp_path))


def test_an_idx_file_that_is_larger_than_any_of_mnist(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(announced(SIZE_LIMIT_BYTES + 1)))
    with frugal(MIB):
        assert "expected 1 to" in refusal(lambda: read_idx(path))


# Members of archives


def zip_of(entry: Callable[[bytearray], None]) -> bytes:
    """A zip of one member a.jpg, whose entry in the table of contents (from its signature on) is changed."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.jpg", b"abc")
    whole = bytearray(content.getvalue())
    at = whole.index(b"PK\1\2")
    changed = whole[at:]
    entry(changed)
    return bytes(whole[:at] + changed)


def read_zip(path: Path) -> list[bytes]:
    with open_zip(path) as archive:
        return [archive.read(name) for name in archive.members]


def test_a_member_without_a_name(tmp_path: Path) -> None:
    def nameless(entry: bytearray) -> None:
        struct.pack_into("<H", entry, 28, 0)  # of the length of the name
        del entry[46:51]
        struct.pack_into("<I", entry, entry.index(b"PK\5\6") + 12, 46)

    (tmp_path / "a.zip").write_bytes(zip_of(nameless))
    assert "member '' is a file without a name" in refusal(lambda: read_zip(tmp_path / "a.zip"))
    (tmp_path / "a.tgz").write_bytes(tgz({"./.": b"x"}))
    assert "member '' is a file without a name" in refusal(lambda: list(read_tgz(tmp_path / "a.tgz")))


@pytest.mark.parametrize("place", [2**31, 2**62, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_member_that_starts_beyond_the_end_of_all_files(place: int, tmp_path: Path) -> None:
    def elsewhere(entry: bytearray) -> None:
        extra = struct.pack("<HHQ", 1, 8, place)
        struct.pack_into("<H", entry, 30, len(extra))
        struct.pack_into("<I", entry, 42, 0xFFFFFFFF)
        entry[51:51] = extra
        struct.pack_into("<I", entry, entry.index(b"PK\5\6") + 12, 51 + len(extra))

    (tmp_path / "a.zip").write_bytes(zip_of(elsewhere))
    assert "member 'a.jpg' is corrupt" in refusal(lambda: read_zip(tmp_path / "a.zip"))


def test_a_header_that_quotes_all_that_follows_it(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.jpg", bytes(range(256)) * 300)
    whole = bytearray(content.getvalue())
    struct.pack_into("<H", whole, 26, 0xFFFF)  # the length of the name, before the member itself
    (tmp_path / "a.zip").write_bytes(whole)
    assert "is corrupt (File name in directory" in refusal(lambda: read_zip(tmp_path / "a.zip"))


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_a_name_of_many_bytes(kind: str, tmp_path: Path) -> None:
    path, long = tmp_path / f"a.{kind}", "\U0001f600" * (limits.NAME_BYTES // 4 + 1)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(long, b"x")
    path.write_bytes(content.getvalue() if kind == "zip" else tgz({long: b"x"}))
    read = (lambda: read_zip(path)) if kind == "zip" else (lambda: list(read_tgz(path)))
    assert f"more than the {limits.NAME_BYTES} bytes it may have" in refusal(read)


@pytest.mark.parametrize("name", ["\x1b[2J.jpg", "\u202ea.jpg", "a\nb.jpg", "\x85.jpg"])
def test_a_name_that_a_terminal_would_obey(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.tgz").write_bytes(tgz({name: b"x" * (limits.MEMBER_BYTES + 1)}))
    assert "says it has" in refusal(lambda: list(read_tgz(tmp_path / "a.tgz")))


def test_a_pax_record_that_a_terminal_would_obey(tmp_path: Path) -> None:
    record = b"21 GNU.sparse.\x1b[2J=1\n"
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    (tmp_path / "a.tgz").write_bytes(tgz({}, [(header, record)]))
    assert r"'GNU.sparse.\x1b[2J" in refusal(lambda: list(read_tgz(tmp_path / "a.tgz")))


# Lists

NAMES = celeba_names(6)
LISTS = celeba_lists(NAMES, [0, 0, 0, 1, 2, 2])
CELEBA = CelebaSettings(source=CelebaSource(kind="celeba"), image_size=8, crop=178, limit=None)
LFW = LfwSettings(source=LfwSource(kind="lfw"), image_size=8, crop=30, validation_images=1)


def test_a_list_that_announces_more_values_than_it_holds(tmp_path: Path) -> None:
    """Of so many images and attributes, a table of their values would take 320 MB."""
    rows, attributes = 20_000, 2000
    header = f"{rows}\n{' '.join(f'{number:04d}' for number in range(attributes))}\n"
    (tmp_path / "a.txt").write_text(header + "1.jpg 1\n" * rows)
    with frugal(40 * MIB):
        assert "line 3: 1.jpg has not a 1 or -1" in refusal(lambda: celeba.read_attributes(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("ab\n" * (reading.LIST_LINES + 1), "more than 1000002 lines"),
        ("1\n" + "a " * reading.LINE_CHARACTERS, "line 2 has"),
        ("\U0001f600" * (reading.LIST_BYTES // 4 + 1), "too large for a list"),
    ],
    ids=["lines", "a line", "bytes"],
)
def test_a_list_that_would_fill_the_memory(text: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    with frugal(8 * reading.LIST_BYTES):
        assert fault in refusal(lambda: reading.read_lines(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    "name", [".jpg", "a\x1b.jpg", "\x00.png", "a/b.jpg", "a.jp\u0261", "a" * 200 + ".jpg", "..png/"]
)
def test_an_image_of_an_odd_name(name: str, tmp_path: Path) -> None:
    """`.jpg` alone has no ending."""
    (tmp_path / "a.txt").write_text(LISTS["list_attr_celeba.txt"].replace("000003.jpg", name))
    assert "line 5: " in refusal(lambda: celeba.read_attributes(tmp_path / "a.txt"))


@pytest.mark.parametrize("name", ["\x1b[2J", "x" * 101, "a/b"])
def test_a_person_or_an_attribute_of_an_odd_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"2\nAnn\t1\n{name}\t1\n")
    assert "line 3: " in refusal(lambda: lfw.read_people(tmp_path / "a.txt"))
    (tmp_path / "a.txt").write_text(LISTS["list_attr_celeba.txt"].replace("Smiling", name))
    assert "line 2 does not name the attributes" in refusal(lambda: celeba.read_attributes(tmp_path / "a.txt"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from(sorted(LISTS)), at=st.integers(0, 400), text=st.text(max_size=12))
def test_a_list_with_anything_in_it(which: str, at: int, text: str, tmp_path: Path) -> None:
    for name, whole in LISTS.items():
        changed = whole[:at] + text + whole[at + 3 :] if name == which else whole
        (tmp_path / name).write_bytes(changed.encode("utf-8", "surrogatepass"))
    settled(lambda: celeba.read(CELEBA, tmp_path))


# Pictures

JPEG = encoded(drawn(1, 16, 16), progressive=True)


def picture(content: bytes, member: str = "a.jpg") -> Picture:
    return Picture("train", 0, Path("raw/a.zip"), member, content)


def test_a_jpeg_of_many_scans() -> None:
    """Each takes the decoder once through the whole picture: 4 MB of them take a minute."""
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x10"
    assert frame_of(picture(JPEG)) == (16, 16)
    scans = JPEG.count(b"\xff\xda") + 400_000
    with frugal(16 * MIB):
        message = refusal(lambda: frame_of(picture(JPEG[:-2] + scan * 400_000 + b"\xff\xd9")))
    assert f"has {scans} scans, more than {MAX_SCANS}" in message


@pytest.mark.parametrize(
    ("member", "side", "fault"),
    [
        ("a.jpg", 1025, "has 1025 x 1025 pixels, more than 1024 a side"),
        ("a.jpg", 65500, "has 65500 x 65500 pixels, more than 1024 a side"),
        ("a.jpg", 65535, "is not a JPEG image"),
        ("a.png", 1025, "has 1025 x 1025 pixels, more than 1024 a side"),
        ("a.png", 65535, "is not a PNG image"),
        ("a.png", 2**31 - 1, "is not a PNG image"),
    ],
)
def test_a_picture_of_many_pixels_a_side(member: str, side: int, fault: str) -> None:
    if member == "a.jpg":
        at = JPEG.index(b"\xff\xc2")
        content = JPEG[: at + 5] + struct.pack(">HH", side, side) + JPEG[at + 9 :]
    else:
        whole = bytearray(encoded(drawn(1, 16, 16), "PNG"))
        struct.pack_into(">II", whole, 16, side, side)
        struct.pack_into(">I", whole, 29, zlib.crc32(bytes(whole[12:29])))
        content = bytes(whole)
    with frugal(MIB):
        assert fault in refusal(lambda: frame_of(picture(content, member)))


def test_a_png_of_texts_that_unpack_to_gigabytes() -> None:
    texts = PngInfo()
    for number in range(18):
        texts.add_text(f"a{number}", "\0" * (4 << 20), zip=True)
    content = io.BytesIO()
    Image.fromarray(drawn(1, 16, 16)).save(content, "PNG", pnginfo=texts)
    with frugal(100 * MIB):
        refusal(lambda: pixels(picture(content.getvalue(), "a.png"), Shape((16, 16), (0, 0, 16, 16), 8)))


# Mirrors


def test_a_line_of_spaces_does_not_take_forever() -> None:
    line = f"{'a' * 64}  mnist/a{' ' * 500_000}b"
    began = time.perf_counter()
    assert len(parse_sums(line)) == 1
    assert time.perf_counter() - began < 1


@settings(max_examples=60, deadline=None)
@given(st.text() | st.from_regex(r"[0-9a-f]{64} [ *](\./)?\S{0,9}\s*", fullmatch=True))
def test_any_text_as_checksums(text: str) -> None:
    def parsed() -> None:
        for name, checksum in parse_sums(text).items():
            assert name == name.rstrip() != ""
            assert len(checksum) == 64

    settled(parsed)


# Arrays and cards


def npy(header: str, body: bytes = bytes(64), version: int = 1) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + body


def described(shape: str = "(4, 1, 4, 4)", descr: str = "'|u1'", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


def test_an_array_as_it_should_be(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy(described()))
    assert open_array(tmp_path / "a.npy", "sample@x", np.uint8, 4).shape == (4, 1, 4, 4)


@pytest.mark.parametrize(
    "content",
    [
        npy(described("(4294967296, 2147483648, 1, 1)")),  # numpy multiplies these to a negative number of bytes
        npy(described("(4294967296, 4294967296, 1, 1)")),  # and these to none
        npy(described("(-1, 1, 1, 1)")),
        npy(described("(-4, -1, 4, 4)")),
        npy(described("(True, 1, 4, 4)")),
        npy(described(f"({'9' * 50}, 1, 4, 4)")),
        npy(described(f"({'9' * 900}, 1, 4, 4)")),
        npy(described(f"({'9' * 5000}, 1, 4, 4)")),
        npy(described("(4, 1, 4, 3)")),
        npy(described(fortran="True")),
        npy(described(descr="'|O'")),
        npy(described(descr="[('a\\n\\x1b', '|u1')]")),
        npy(described(descr="('|u1', (1, 4, 4))", shape="(4,)")),
        npy(described(descr="{}")),
        npy(described(descr="'|u8'")),
        npy("-" * 9000 + "1"),  # MemoryError in Python's parser
        npy("(" * 9000),
        npy("{[]: 1}"),
        npy("__import__('os').mkdir('trap')"),
        npy(described(), version=2),
        npy(described(), version=3),
        b"\x93NUMPY\1\0\xff\xff",
        npy(described())[:-1],
    ],
)
def test_a_header_that_numpy_stumbles_over(content: bytes, alone: Path) -> None:
    (alone / "a.npy").write_bytes(content)
    with warnings.catch_warnings(), frugal(MIB):
        warnings.simplefilter("error")
        assert "a.npy: " in refusal(lambda: open_array(alone / "a.npy", "sample@x", np.uint8, 4))
    assert {path.name for path in alone.iterdir()} == {"a.npy"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 80), text=st.binary(max_size=6))
def test_an_array_with_anything_in_its_header(at: int, text: bytes, tmp_path: Path) -> None:
    whole = npy(described())
    (tmp_path / "train.npy").write_bytes(whole[:at] + text + whole[at + len(text) :])
    np.save(tmp_path / "train_labels.npy", np.zeros(4, np.int64))
    settled(lambda: open_split(tmp_path, "train"))


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b"NaN",
        b'{"a": -Infinity}',
        b"9" * 5000,
        b"[" + b"0," * (JSON_BYTES // 2) + b"0]",
        b'"\xff"',
    ],
    ids=["lists", "mappings", "nan", "infinity", "digits", "large", "bytes"],
)
def test_json_that_is_none_or_too_much(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with frugal(3 * JSON_BYTES):
        assert "a.json: not valid JSON (" in refusal(lambda: read_json(tmp_path / "a.json"))


def test_a_folder_is_no_json(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(lambda: read_json(tmp_path))


CARD = {
    **{"dataset": "tiny", "origin": {}, "people": False, "edition": None, "image_size": 4, "channels": 1},
    **{"labels": "classes", "classes": ["a"], "counts": {"train": 2}, "class_counts": {}, "people_counts": None},
    **{"mean": [0.5], "std": [0.5], "crop": None, "resize": None, "split_rule": "none", "sha256": {}},
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", 3),
        ("people", "no"),
        ("image_size", 10**9),
        ("image_size", -1),
        ("channels", True),
        ("labels", "\x1b[2J"),
        ("classes", "abc"),
        ("classes", [1]),
        ("counts", {"train": -1}),
        ("counts", [2]),
    ],
)
def test_a_card_of_wrong_types(key: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps(CARD))
    assert open_card(tmp_path) == CARD
    (tmp_path / "card.json").write_text(json.dumps(CARD | {key: value}))
    assert f"({key}: " in refusal(lambda: open_card(tmp_path))


# params.yaml


def load_text(text: str | bytes, folder: Path) -> params.Params:
    path = folder / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return params.load(path)


def laughs(levels: int, opening: str, closing: str) -> str:
    lines = [f"a{n}: &a{n} {opening}{', '.join([f'*a{n - 1}'] * 9)}{closing}" for n in range(1, levels)]
    return "\n".join(["a0: &a0 {b: 1}", *lines])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (laughs(20, "[", "]"), "aliases (*name) expand it"),
        (laughs(20, "{<<: [", "]}"), "aliases (*name) expand it"),
        ("a: &a [*a]", "an alias (*name) stands for what it is part of"),
        ("a: &a {b: *a}", "an alias (*name) stands for what it is part of"),
        ("a: &a {<<: *a}", "an alias (*name) stands for what it is part of"),
        ("seed: 0x" + "f" * 2000, "a value or key of more than 1000 characters"),
        ("? " + "a" * 1001 + "\n: 1", "a value or key of more than 1000 characters"),
        ("seed: 0 #" + "x" * params.FILE_BYTES, "more than 32 KiB"),
        ("seed: " + "[" * 2000, "more than 100 brackets are open at once"),  # they took 9 s
        ("#" + "]" * 2000 + "\nseed: " + "{a: [" * 60, "more than 100 brackets are open at once"),
        ("- " * 1000, "not valid YAML"),
        ("a: *" + "9" * 5000, "found undefined alias"),
        ("a: 1\na: 2", "duplicate key"),
        ("a: !!python/object/apply:os.mkdir [trap]", "not valid YAML"),
        ('"\\ud800": 1', r"params.yaml: \ud800: unknown section"),
        ('"\\x1b[2J": 1', r"params.yaml: \x1b[2J: unknown section"),
    ],
    ids=lambda value: value[:16] if isinstance(value, str) else "",
)
def test_yaml_that_is_made_to_harm(text: str, fault: str, alone: Path) -> None:
    with frugal(100 * MIB):
        assert fault in refusal(lambda: load_text(text, alone))
    assert {path.name for path in alone.iterdir()} == {"params.yaml"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "0x" + "f" * 900),
        ("seed", str(2**63)),
        ("runs.digits-gan.epochs", "0x" + "f" * 900),
        ("runs.digits-gan.epochs", str(2**63)),
        ("gan.lr", "1e400"),
        ("gan.lr", ".nan"),
        ("gan.lr", "-.inf"),
        ("gan.lr", "0x" + "f" * 900),
        ("gan.dropout", '"\\x1b[2J"'),
        ("data.digits.source.kind", '"\\x1b[2J"'),
        ("data.digits.source.kind", "[" + "x, " * 900 + "x]"),
        ("runs.digits-gan.model", "[" + "x, " * 900 + "x]"),
        ("runs.digits-gan.net", "{" + ", ".join(f"x{n}: 1" for n in range(500)) + "}"),
        ("lanes.demo.title", '"\\ud800"'),
        ("lanes", "[" + "x, " * 900 + "x]"),
        ('runs.digits-gan."\\x1b[2J"', "1"),
        ('"\\x1b[2J"', "1"),
    ],
)
def test_a_value_made_to_harm(key: str, value: str, raw: dict[str, Any], alone: Path) -> None:
    *sections, last = key.split(".")
    target = raw
    for section in sections:
        target = target[section]
    target["LAST" if last.startswith('"') else last] = "VALUE"
    text = json.dumps(raw).replace('"LAST"', last).replace('"VALUE"', value)
    with frugal(100 * MIB):
        refusal(lambda: load_text(text, alone))


def test_aliases_and_merges_that_a_person_writes_are_read(raw: dict[str, Any], tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    shared = text.replace("  digits-ae:\n    lane: demo\n", "  digits-ae: &own\n    lane: demo\n")
    more = shared + "  another:\n    <<: *own\n    epochs: 7\n"
    everything = load_text(more, tmp_path)
    assert everything.run("another").epochs == 7
    assert everything.run("another").width == everything.run("digits-ae").width == raw["runs"]["digits-ae"]["width"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.sampled_from("abc019:-?,[]{}&*!|>'\"%@#. \n\t<~=_x\\\x1b\u2028\ufeff"), max_size=60))
def test_any_text_as_params(text: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settled(lambda: load_text(text.encode("utf-8", "surrogatepass"), tmp_path))


# Weights


@pytest.fixture
def model(small: Small, tmp_path: Path) -> Path:
    chosen = small("gan", net="mlp", ema_halflife_images=10.0)
    networks = objectives.get("gan").build(chosen, (1, 4, 4))
    averaged = objectives.get("gan").build(chosen, (1, 4, 4))["generator"]
    path = tmp_path / "model.safetensors"
    models.save(path, "a-run", 0, chosen, (1, 4, 4), networks, averaged)
    return path


def parts_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, parsed, and its body."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def rewrite(path: Path, header: dict[str, Any], body: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def change_metadata(path: Path, **changes: Any) -> None:
    header, body = parts_of(path)
    metadata = json.loads(header["__metadata__"]["genlib"])
    metadata["settings"] |= changes.pop("settings", {})
    header["__metadata__"]["genlib"] = json.dumps(metadata | changes)
    rewrite(path, header, body)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [16, 4096, 4096]},
        {"shape": [10**9, 10**9, 10**9]},
        {"settings": {"width": 1024, "discriminator_width": 10**9}},
        {"settings": {"discriminator_width": 10**18}},
        {"settings": {"discriminator_width": 10**30}},
        {"settings": {"latent_dim": 4096, "width": 1024}},
        {"settings": {"net": "dcgan", "width": 1024, "discriminator_width": 10**6}, "shape": [3, 128, 128]},
        {"seed": 10**30},
        {"settings": {"lr": 10**400}},
    ],
)
def test_sizes_that_are_announced_are_not_allocated(
    changes: dict[str, Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks are built without memory, and the file has not the tensors that would fill them."""
    models.load(model)
    monkeypatch.setattr(torch.nn.Module, "to_empty", lambda *_, **__: pytest.fail("memory was taken"))
    change_metadata(model, **changes)
    with frugal(32 * MIB):
        assert "not a model file of genlib" in refusal(lambda: models.load(model))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32, torch.uint8])
def test_tensors_of_another_type_are_not_cast(dtype: torch.dtype, model: Path) -> None:
    loaded = models.load(model)
    assert loaded.averaged is not None
    networks = loaded.networks | {"averaged": loaded.averaged}
    tensors = {f"{part}.{name}": tensor for part, net in networks.items() for name, tensor in net.state_dict().items()}
    metadata = parts_of(model)[0]["__metadata__"]
    model.write_bytes(save_tensors(tensors, metadata))
    models.load(model)
    tensors["generator.0.bias"] = tensors["generator.0.bias"].to(dtype)
    model.write_bytes(save_tensors(tensors, metadata))
    assert "size mismatch: generator.0.bias is " in refusal(lambda: models.load(model))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(value: float, model: Path) -> None:
    header, body = parts_of(model)
    start, end = header["discriminator.1.weight"]["data_offsets"]
    changed = body[: end - 4] + struct.pack("<f", value) + body[end:]
    assert start < end
    rewrite(model, header, changed)
    assert "discriminator.1.weight has values that are not finite" in refusal(lambda: models.load(model))


def test_a_header_of_many_tensors_is_not_parsed(tmp_path: Path) -> None:
    """The library would take 2.5 GB for these."""
    path = tmp_path / "toy" / "model.safetensors"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write((90_000_000).to_bytes(8, "little") + b"{")
        file.truncate(90_000_008)
    with frugal(MIB):
        assert "a header of 90000000 bytes" in refusal(lambda: models.load(path))
        assert "a header of 90000000 bytes" in refusal(lambda: features.load(path, CPU))


def test_a_file_of_terabytes_is_not_mapped(model: Path) -> None:
    with model.open("r+b") as file:
        file.truncate(weights.FILE_BYTES + 1)
    assert f"in a file of {weights.FILE_BYTES + 1}" in refusal(lambda: models.load(model))


def test_a_reason_that_a_terminal_would_obey(model: Path) -> None:
    change_metadata(model, settings={"\x1b[2J": 1})
    assert r"\x1b[2J" in refusal(lambda: models.load(model))
    change_metadata(model, **{"\x1b[2J": 1})
    assert r"\x1b[2J" in refusal(lambda: models.load(model))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_model_file_with_a_few_bytes_changed(seed: int, model: Path) -> None:
    whole, chance = bytearray(model.read_bytes()), random.Random(seed)
    for _ in range(chance.randint(1, 3)):
        whole[chance.randrange(len(whole))] = chance.randrange(256)
    spoiled = model.with_name("spoiled.safetensors")
    spoiled.write_bytes(whole)
    settled(lambda: models.load(spoiled))


# States of a stopped training


@pytest.fixture
def state(small: Small, bars: Callable[[int], Images], progress: ProgressSettings, tmp_path: Path) -> Path:
    """The state after the first of two epochs."""
    keeper = Keeper(tmp_path / "work", {})
    next(iter(training.run(started(small), bars(20), bars(5), progress, keeper)))
    (path,) = keeper.folder.glob("*.safetensors")
    return path


def started(small: Small) -> training.Training:
    return training.start(small("vae", net="mlp"), 0, (1, 28, 28), CPU)


def restored(path: Path, small: Small, capsys: pytest.CaptureFixture[str]) -> tuple[training.Training, str]:
    """A training after the attempt to go on from the state, its checksum made right, and what was said of it."""
    path.with_suffix(".sha256").write_text(sha256(path.read_bytes()).hexdigest())
    found = started(small)
    Keeper(path.parent.parent, {}).restore(found)
    said = capsys.readouterr().err.strip()
    assert said.isprintable()
    assert len(said) < 2000
    return found, said


def test_a_state_as_it_should_be(state: Path, small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    found, said = restored(state, small, capsys)
    assert (found.epoch, said) == (1, "")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("optimizers.autoencoder.0.exp_avg", None),
        ("optimizers.autoencoder.0.exp_avg_sq", None),
        ("optimizers.autoencoder.0.more", torch.zeros(1)),
        ("optimizers.autoencoder.0.step", torch.tensor(-1e30)),
        ("optimizers.autoencoder.0.step", torch.tensor(float("nan"))),
        ("optimizers.autoencoder.0.step", torch.tensor(1)),
        ("optimizers.autoencoder.0.exp_avg", torch.int64),
        ("frames.samples.00000", torch.zeros(3)),
    ],
)
def test_a_state_that_a_training_cannot_go_on_from(
    name: str, change: Tensor | torch.dtype | None, state: Path, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, metadata = load_file(state), parts_of(state)[0]["__metadata__"]
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change if isinstance(change, Tensor) else tensors[name].to(change)
    state.write_bytes(save_tensors(tensors, metadata))
    found, said = restored(state, small, capsys)
    assert found.epoch == 0
    assert "is damaged (" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": {"autoencoder": [{"lr": 0.1, "betas": 0.5}]}},
        {"groups": {"autoencoder": [{}]}},
        {"groups": {"autoencoder": [{"lr": -1.0}]}},
        {"history": [{"epoch": 10**400}]},
        {"steps": [{"step": 1}, {"images": 1}]},
        {"steps": []},
        {"\x1b[2J": 1},
    ],
)
def test_a_state_of_other_metadata(
    changes: dict[str, Any], state: Path, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    header, body = parts_of(state)
    header["__metadata__"]["genlib"] = json.dumps(json.loads(header["__metadata__"]["genlib"]) | changes)
    rewrite(state, header, body)
    found, said = restored(state, small, capsys)
    assert found.epoch == 0
    assert "is damaged (" in said


# Whole archives


FILES = {
    "lfw": {
        "lfw-deepfunneled.tgz": tgz(lfw_members(LFW_TRAIN | LFW_TEST, frame=(16, 16))),
        "peopleDevTrain.txt": people_list(LFW_TRAIN).encode(),
        "peopleDevTest.txt": people_list(LFW_TEST).encode(),
    },
    "celeba": {
        "img_align_celeba.zip": zipped(celeba_members(NAMES, (16, 16)), zipfile.ZIP_DEFLATED),
        **{name: text.encode() for name, text in LISTS.items()},
    },
}


def read_dataset(kind: str, raw: Path) -> reading.Reading:
    return lfw.read("lfw", LFW, raw) if kind == "lfw" else celeba.read(CELEBA, raw)


@pytest.mark.parametrize("kind", ["lfw", "celeba"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_reading_writes_nothing(kind: str, seed: int, tmp_path: Path) -> None:
    """Whatever becomes of an archive and its lists, in their folder and beside it is what was there before."""
    raw = tmp_path / kind / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in FILES[kind].items():
        (raw / name).write_bytes(content)
    chance = random.Random(seed)
    victim = chance.choice(sorted(FILES[kind]))
    whole = bytearray(FILES[kind][victim])
    whole[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    (raw / victim).write_bytes(whole)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    settled(lambda: [frame_of(one) for one in read_dataset(kind, raw).pictures()])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
