"""Fuzzes a mirror: its SHA256SUMS and what is fetched by it, into a folder of ours."""

import contextlib
import random
from hashlib import sha256
from pathlib import Path

from fuzz.harness import bytewise, fuzz, instrumented, packed, unpacked

with instrumented():
    from genlib.data.fetch import SourceError, Transfer
    from genlib.data.mirror import open_mirror, parse_sums

KEY = "mnist/train-labels-idx1-ubyte.gz"
SNIPPETS = [b"../../x", b"/etc/x", b"\0", b"\x1b[2J", b"\r", b"\xe2\x80\xa8", b" " * 5000, b"*", b"./", b"\xff", b"\n"]


def read(folder: Path, data: bytes) -> None:
    sums, file = unpacked(data, 2)
    base, work = folder / "mirror", folder / "work"
    (base / "mnist").mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    (base / "SHA256SUMS").write_bytes(sums)
    (base / KEY).write_bytes(file)
    mirror = open_mirror(base, work, Transfer())
    with contextlib.suppress(SourceError):
        assert len(mirror.listed(KEY)) == 64
        mirror.bring(KEY, work / "part", 1000, Transfer())
    assert {path.name for path in work.iterdir()} <= {"part"}
    assert all(len(value) == 64 for value in parse_sums(sums.decode("utf-8", "replace")).values())


def seeds() -> list[bytes]:
    line = f"{sha256(b'abc').hexdigest()}  {KEY}\n".encode()
    return [packed(line, b"abc"), packed(line * 3 + b"\n" + line.replace(b"  ", b" *./"), b""), packed(b"", b"")]


def mutate(data: bytes, chance: random.Random) -> bytes:
    sums, file = unpacked(data, 2)
    at = chance.randrange(len(sums) + 1)
    changed = sums[:at] + chance.choice(SNIPPETS) + sums[at:] if chance.random() < 0.5 else bytewise(sums)
    return packed(changed, file)


if __name__ == "__main__":
    fuzz("mirror", read, seeds(), mutate)
