"""Fuzzes a processed dataset: the headers of its .npy files, and card.json."""

import io
import json
import random
from pathlib import Path

import numpy as np

from fuzz.harness import bytewise, fuzz, instrumented, json_changed, packed, unpacked

with instrumented():
    from genlib.data.arrays import open_card, open_split

CARD = {
    **{"dataset": "tiny", "origin": {"files": []}, "people": False, "edition": None, "image_size": 4, "channels": 1},
    **{"labels": "classes", "classes": ["a", "b"], "counts": {"train": 2}, "class_counts": {"train": [1, 1]}},
    **{"people_counts": None, "mean": [0.5], "std": [0.5], "crop": None, "resize": None, "split_rule": "none"},
    **{"sha256": {"train.npy": "0" * 64}},
}
HEADERS = [
    *(b"(4294967296, 2147483648, 1, 1)", b"(-1, 1, 1, 1)", b"(0, 1, 1, 1)", b"(True, 1, 4, 4)", b"(2, 1, 4, 4,)"),
    *(b"'fortran_order': True", b"'descr': '|O'", b"'descr': '<U4'", b"'descr': [('a', '|u1')]", b"-" * 5000 + b"1"),
]


def read(folder: Path, data: bytes) -> None:
    images, labels, card = unpacked(data, 3)
    (folder / "train.npy").write_bytes(images)
    (folder / "train_labels.npy").write_bytes(labels)
    (folder / "card.json").write_bytes(card)
    assert open_card(folder)["image_size"] > 0
    split = open_split(folder, "train")
    assert split.images.flags.c_contiguous
    assert not split.images.flags.writeable
    assert int(split.images.sum()) + int(split.labels.max(initial=0)) > -(2**63)


def seeds() -> list[bytes]:
    images, attributes = np.zeros((2, 1, 4, 4), np.uint8), np.zeros((2, 3), np.int64)
    card = json.dumps(CARD).encode()
    return [packed(saved(images), saved(labels), card) for labels in (attributes, attributes[:, 0])]


def saved(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def mutate(data: bytes, chance: random.Random) -> bytes:
    parts = unpacked(data, 3)
    chosen = chance.randrange(3)
    if chosen == 2:
        parts[2] = json_changed(parts[2], chance)
    elif chance.random() < 0.5:
        size = int.from_bytes(parts[chosen][8:10], "little")
        header, body = parts[chosen][10 : 10 + size], parts[chosen][10 + size :]
        at, end = sorted(chance.choices(range(len(header) + 1), k=2))
        put_in = header[:at] + chance.choice(HEADERS) + header[end:]
        header = put_in if chance.random() < 0.5 else bytewise(header, 4096)
        parts[chosen] = parts[chosen][:8] + (len(header) & 0xFFFF).to_bytes(2, "little") + header + body
    else:
        parts[chosen] = bytewise(parts[chosen])
    return packed(*parts)


if __name__ == "__main__":
    fuzz("arrays", read, seeds(), mutate)
