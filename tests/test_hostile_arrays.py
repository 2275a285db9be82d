"""Arrays, cards and other JSON from strangers: read or refused in one short line, in little memory."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strangers import MIB, frugal, refusal, settled

from genlib.data.arrays import open_array, open_card, open_split
from genlib.files import JSON_BYTES, read_json


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
