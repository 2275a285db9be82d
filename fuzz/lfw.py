"""Fuzzes LFW's archives: the tar.gz with its headers, the lists of people, and the decoding of JPEGs."""

import gzip
import io
import random
import tarfile
import zlib
from pathlib import Path

from fuzz.harness import bytewise, fuzz, instrumented, packed, unpacked
from fuzz.pictures import drawn, looked_at

with instrumented():
    from genlib.data.readers import lfw
    from genlib.settings import LfwSettings, LfwSource

SETTINGS = LfwSettings(source=LfwSource(kind="lfw"), image_size=8, crop=10, validation_images=1)
LISTS = (b"3\nAnn_Ash\t2\nBob\t1\nC\xc3\xa9a\t1\n", b"1\nDee\t1\n")
_BLOCK = 512
_CHECKSUM = slice(148, 156)


def read(folder: Path, data: bytes) -> None:
    archive, train, test = unpacked(data, 3)
    (folder / "lfw-deepfunneled.tgz").write_bytes(archive)
    (folder / "peopleDevTrain.txt").write_bytes(train)
    (folder / "peopleDevTest.txt").write_bytes(test)
    for picture in lfw.read("lfw", SETTINGS, folder).pictures():
        looked_at(picture)


def seeds() -> list[bytes]:
    names = [f"lfw/{name}/{name}_000{n}.jpg" for name, n in [("Ann_Ash", 1), ("Ann_Ash", 2), ("Bob", 1), ("Cea", 1)]]
    names = [name.replace("Cea", "C\u00e9a") for name in [*names, "lfw/Dee/Dee_0001.jpg"]]
    long = [f"{'x/' * 80}{name}" for name in names]
    archives = [tar(list(names), kind) for names in (names, long) for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    return [packed(gzip.compress(archive, 1, mtime=0), *LISTS) for archive in archives]


def tar(names: list[str], kind: int) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=kind) as archive:
        for name in names:
            header = tarfile.TarInfo(name)
            header.size = len(drawn("JPEG"))
            archive.addfile(header, io.BytesIO(drawn("JPEG")))
    return content.getvalue()


def mutate(data: bytes, chance: random.Random) -> bytes:
    parts = unpacked(data, 3)
    chosen = chance.choice([0, 0, 0, 1, 2])
    if chosen > 0:
        parts[chosen] = bytewise(parts[chosen])
        return packed(*parts)
    try:
        content = bytearray(zlib.decompressobj(31).decompress(parts[0], 1 << 16))
    except zlib.error:
        return bytewise(data)
    content += bytes(-len(content) % _BLOCK)
    headers = [at for at in range(0, len(content), _BLOCK) if content[at + 257 : at + 262] == b"ustar"]
    if headers and chance.random() < 0.7:  # in a header, whose checksum is then made right again
        at = chance.choice(headers)
        first, last = chance.choice([(0, 100), (124, 136), (156, 157), (257, 265), (345, 500), (0, 512), (512, 1024)])
        field = bytewise(bytes(content[at + first : at + last]), last - first)
        content[at + first : at + first + len(field)] = field
        header = content[at : at + _BLOCK]
        header[_CHECKSUM] = b" " * 8
        content[at + _CHECKSUM.start : at + _CHECKSUM.stop] = b"%06o\0 " % sum(header)
    elif headers and chance.random() < 0.5:  # a member more, less or elsewhere
        at, to = chance.choice(headers), chance.choice(headers)
        member = content[at : at + 3 * _BLOCK]
        if chance.random() < 0.5:
            del content[at : at + 3 * _BLOCK]
        content[to:to] = member
    else:
        content = bytearray(bytewise(bytes(content)))
    return packed(gzip.compress(bytes(content), chance.choice([0, 1]), mtime=0), *parts[1:])


if __name__ == "__main__":
    fuzz("lfw", read, seeds(), mutate)
