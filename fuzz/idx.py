"""Fuzzes MNIST's archives: `read_idx`, and the reader that puts images and labels together."""

import gzip
import random
import struct
import zlib
from itertools import islice
from pathlib import Path

from fuzz.harness import bytewise, fuzz, instrumented, packed, unpacked

with instrumented():
    from genlib.data.idx import read_idx
    from genlib.data.readers import mnist
    from genlib.settings import IdxSettings, MnistSource

SETTINGS = IdxSettings(source=MnistSource(kind="mnist"), image_size=28, validation_images=1)


def read(folder: Path, data: bytes) -> None:
    images, labels = unpacked(data, 2)
    for name in ("train", "t10k"):
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(images)
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(labels)
    reading = mnist.read("mnist", SETTINGS, folder)
    for picture in islice(reading.pictures(), 100):
        assert len(picture.content) > 0
    assert len(read_idx(folder / "train-images-idx3-ubyte.gz", max_items=1)) == 1


def seeds() -> list[bytes]:
    images, labels = announced(3, 4, 4) + bytes(range(48)), announced(3) + b"\0\1\2"
    pairs = [
        (images, labels),
        (announced(2, 1, 1) + b"ab", announced(2) + b"\0\1"),
        (announced(1 << 28, 1, 1) + bytes(99), labels),
        (images + b"more", announced(1, 1, 1, 1) + b"\0"),
    ]
    return [packed(gzip.compress(a, 1, mtime=0), gzip.compress(b, 0, mtime=0)) for a, b in pairs]


def announced(*shape: int) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)


def mutate(data: bytes, chance: random.Random) -> bytes:
    parts = unpacked(data, 2)
    chosen = chance.randrange(2)
    try:
        content = zlib.decompressobj(31).decompress(parts[chosen], 1 << 16)
    except zlib.error:
        parts[chosen] = bytewise(parts[chosen])
    else:
        parts[chosen] = gzip.compress(bytewise(content), chance.choice([0, 1, 9]), mtime=0)
    return packed(*parts)


if __name__ == "__main__":
    fuzz("idx", read, seeds(), mutate)
