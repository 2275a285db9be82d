"""Fuzzes CelebA's archives: the zip with its table of contents, the three lists, and the decoding of JPEGs and PNGs."""

import io
import lzma
import random
import struct
import zipfile
import zlib
from pathlib import Path

from fuzz.harness import bytewise, fuzz, instrumented, packed, unpacked
from fuzz.pictures import drawn, looked_at

with instrumented():
    from genlib.data.readers import celeba
    from genlib.settings import CelebaSettings, CelebaSource

SETTINGS = CelebaSettings(source=CelebaSource(kind="celeba"), image_size=8, crop=178, limit=None)
MEMBERS = {"000001.jpg": "JPEG", "000002.png": "PNG", "000003.jpg": "progressive JPEG"}
LISTS = (
    b"3\nSmiling Young \n000001.jpg  1 -1\n000002.png -1 -1\n000003.jpg  1  1\n",
    b"000001.jpg 0\n000002.png 1\n000003.jpg 2\n",
    b"000001.jpg 2880\n000002.png 2937\n000003.jpg 8692\n",
)
_NUMBERS = [0, 1, 8, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF]


def read(folder: Path, data: bytes) -> None:
    archive, *lists = unpacked(data, 4)
    (folder / celeba.ARCHIVE).write_bytes(archive)
    for name, text in zip((celeba.ATTRIBUTES, celeba.PARTITION, celeba.IDENTITIES), lists, strict=True):
        (folder / name).write_bytes(text)
    for picture in celeba.read(SETTINGS, folder).pictures():
        looked_at(picture)


def seeds() -> list[bytes]:
    content = {f"img_align_celeba/{name}": drawn(kind) for name, kind in MEMBERS.items()}
    return [packed(zipped(content, method), *LISTS) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]


def zipped(members: dict[str, bytes], method: int, zip64: bool = False) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in members.items():
            with archive.open(name, "w", force_zip64=zip64) as member:
                member.write(data)
    return content.getvalue()


# What the zipfile module raises for an archive that was changed before; LookupError: it has no members left.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(OSError, EOFError, RuntimeError, ValueError, OverflowError, LookupError),
)


def mutate(data: bytes, chance: random.Random) -> bytes:
    archive, *lists = unpacked(data, 4)
    match chance.randrange(4):
        case 0:
            chosen = chance.randrange(3)
            lists[chosen] = bytewise(lists[chosen])
        case 1:  # what a member holds, its checksum made right
            try:
                with zipfile.ZipFile(io.BytesIO(archive)) as opened:
                    members = {name: opened.read(name) for name in opened.namelist()}
                chosen_name = chance.choice(list(members))
                members[chosen_name] = bytewise(members[chosen_name])
                method = chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
                archive = zipped(members, method, zip64=chance.random() < 0.3)
            except _UNREADABLE:
                archive = bytewise(archive)
        case 2:  # a number in the table of contents or at the end
            places = [at for sign in (b"PK\1\2", b"PK\5\6", b"PK\3\4", b"PK\6\6") for at in _all(archive, sign)]
            if places:
                at = chance.choice(places) + 4 + 2 * chance.randrange(24)
                number = struct.pack("<Q", chance.choice(_NUMBERS))[: chance.choice([2, 4, 8])]
                archive = archive[:at] + number + archive[at + len(number) :]
        case 3:  # a table of contents that states sizes and places in 64 bits
            places = _all(archive, b"PK\1\2")
            if places:
                archive = _in_64_bits(archive, chance.choice(places), chance)
    return packed(archive, *lists)


def _in_64_bits(archive: bytes, at: int, chance: random.Random) -> bytes:
    extra = struct.pack("<HH3Q", 1, 24, *(chance.choice(_NUMBERS) for _ in range(3)))
    (named,) = struct.unpack_from("<H", archive, at + 28) if len(archive) >= at + 30 else (0,)
    entry = bytearray(archive[at : at + 46 + named])
    if len(entry) < 46:
        return archive
    struct.pack_into("<II", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", entry, 30, len(extra))
    struct.pack_into("<I", entry, 42, 0xFFFFFFFF)
    end = bytearray(archive[at + 46 + named :])
    if (last := end.rfind(b"PK\5\6")) >= 0 and len(end) >= last + 16:
        (size,) = struct.unpack_from("<I", end, last + 12)
        struct.pack_into("<I", end, last + 12, (size + len(extra)) & 0xFFFFFFFF)
    return archive[:at] + bytes(entry) + extra + bytes(end)


def _all(data: bytes, sign: bytes) -> list[int]:
    return [at for at in range(len(data)) if data.startswith(sign, at)]


if __name__ == "__main__":
    fuzz("celeba", read, seeds(), mutate)
