"""Archives that are hostile or broken: each one clear line that names archive and member, and nothing half-written."""

import gzip
import io
import random
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archives import (
    LFW_TEST,
    LFW_TRAIN,
    Members,
    assert_clear,
    celeba_members,
    celeba_names,
    drawn,
    encoded,
    lfw_members,
    tgz,
    write_celeba,
    write_lfw,
    zipped,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genlib.data.processed import preprocess
from genlib.data.readers import members as limits
from genlib.data.readers.tgz import read_tgz
from genlib.data.readers.zip import open_zip
from genlib.errors import GenlibError
from genlib.settings import CelebaSettings, CelebaSource, LfwSettings, LfwSource

PEOPLE = {**LFW_TRAIN, **LFW_TEST}
LFW = lfw_members(PEOPLE)
CELEBA = celeba_members(celeba_names(10))
LFW_SETTINGS = LfwSettings(source=LfwSource(kind="lfw"), image_size=8, crop=30, validation_images=3)
CELEBA_SETTINGS = CelebaSettings(source=CelebaSource(kind="celeba"), image_size=8, crop=178, limit=None)
VICTIM = "lfw-deepfunneled/Dee_Dogwood/Dee_Dogwood_0003.jpg"
ZIP_VICTIM = "img_align_celeba/000006.jpg"


def refused(run: Callable[[], object], folder: Path, *parts: str) -> None:
    """It ends in one line with these parts and a remedy, and nothing is left in or beside `folder`/out."""
    with pytest.raises(GenlibError) as caught:
        run()
    message = str(caught.value)
    assert "\n" not in message
    for part in (*parts, "; delete it and run dvc repro --force download@", "mirror"):
        assert part in message
    assert {path.name for path in folder.iterdir()} <= {"raw"}


def lfw_refused(folder: Path, archive: bytes, *parts: str) -> None:
    raw = write_lfw(folder, archive=archive)
    refused(
        lambda: preprocess("lfw", LFW_SETTINGS, raw, folder / "out"), folder, "raw/lfw/lfw-deepfunneled.tgz", *parts
    )


def celeba_refused(folder: Path, archive: bytes, *parts: str) -> None:
    raw = write_celeba(folder, archive=archive)
    run = lambda: preprocess("celeba", CELEBA_SETTINGS, raw, folder / "out")  # noqa: E731
    refused(run, folder, "raw/celeba/img_align_celeba.zip", *parts)


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


EVIL_NAMES = [
    "../evil.jpg",
    "lfw-deepfunneled/../../evil.jpg",
    "lfw-deepfunneled/Ann_Ash/..",
    "/etc/evil.jpg",
    "..\\evil.jpg",
    "a\\b.jpg",
    "C:/evil.jpg",
    "c:evil.jpg",
]


class TestTar:
    @pytest.mark.parametrize("name", EVIL_NAMES)
    def test_a_name_that_leads_out(self, name: str, tmp_path: Path) -> None:
        lfw_refused(tmp_path, tgz({name: b"x", **LFW}), f"member {name!r} has a name that leads out of its folder")

    def test_a_folder_whose_name_leads_out(self, tmp_path: Path) -> None:
        archive = tgz(LFW, [(header("lfw-deepfunneled/../..", tarfile.DIRTYPE), b"")])
        lfw_refused(tmp_path, archive, "leads out of its folder")

    def test_a_long_name_that_leads_out(self, tmp_path: Path) -> None:
        lfw_refused(tmp_path, tgz({"x/" * 80 + "../../evil.jpg": b"x", **LFW}), "leads out of its folder")

    @pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"7", b"S", b"K", b"V", b"?"])
    def test_links_devices_and_other_kinds(self, kind: bytes, tmp_path: Path) -> None:
        archive = tgz(LFW, [(header("lfw-deepfunneled/evil.jpg", kind, link="/etc/passwd"), b"")])
        lfw_refused(tmp_path, archive, "member 'lfw-deepfunneled/evil.jpg' is neither a plain file nor a folder")

    @pytest.mark.parametrize("again", [VICTIM, "./" + VICTIM, VICTIM.replace("/", "//")])
    def test_a_member_that_is_there_twice(self, again: str, tmp_path: Path) -> None:
        lfw_refused(tmp_path, tgz(LFW, [(header(again), b"")]), f"member {VICTIM!r} is there twice")

    def test_a_member_that_claims_too_much(self, tmp_path: Path) -> None:
        claim = header("lfw-deepfunneled/Zoe/Zoe_0001.jpg", size=5 << 30).tobuf(tarfile.GNU_FORMAT)
        archive = gzip.compress(claim + bytes(1024))
        lfw_refused(tmp_path, archive, "member 'lfw-deepfunneled/Zoe/Zoe_0001.jpg' says it has 5368709120 bytes")

    def test_a_bomb_stops_early(self, tmp_path: Path) -> None:
        """24 MiB of zeros in 110 kB, as a file, a GNU long name and a pax header: hardly any of it is unpacked."""
        for kind in (tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE):
            content = bytes(24 << 20)
            bomb = header("lfw-deepfunneled/Zoe/Zoe_0001.jpg", kind, len(content)).tobuf(tarfile.GNU_FORMAT)
            path = tmp_path / "bomb.tgz"
            path.write_bytes(gzip.compress(bomb + content, 1))
            del content
            tracemalloc.start()
            with pytest.raises(
                GenlibError, match=r"bomb.tgz: member 'lfw-deepfunneled/Zoe/Zoe_0001.jpg' .*25165824 bytes"
            ):
                list(read_tgz(path))
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
            tracemalloc.stop()

    def test_a_bomb_of_many_members(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "MEMBERS", 12)
        lfw_refused(tmp_path, tgz(LFW), "is member number 13, more than the 12 an archive may have")

    def test_a_bomb_of_many_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "TOTAL_BYTES", 10_000)
        lfw_refused(tmp_path, tgz(LFW), "is where the archive exceeds the")

    def test_a_bomb_after_the_end(self, tmp_path: Path) -> None:
        archive = gzip.compress(gzip.decompress(tgz(LFW)) + bytes(40 << 20), 1)
        lfw_refused(tmp_path, archive, "goes on after its end")

    @pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.9])
    def test_a_truncated_archive(self, share: float, tmp_path: Path) -> None:
        whole = tgz(LFW)
        lfw_refused(tmp_path, whole[: int(len(whole) * share)], "truncated")

    @pytest.mark.parametrize("missing", [1, 4, 8, 9])
    def test_an_archive_without_its_last_bytes(self, missing: int, tmp_path: Path) -> None:
        lfw_refused(tmp_path, tgz(LFW)[:-missing], "truncated")

    def test_a_tar_that_ends_early_within_a_whole_gzip(self, tmp_path: Path) -> None:
        lfw_refused(tmp_path, gzip.compress(gzip.decompress(tgz(LFW))[:5000]), "truncated")

    def test_a_wrong_checksum_at_the_end(self, tmp_path: Path) -> None:
        whole = bytearray(tgz(LFW))
        whole[-5] ^= 1
        lfw_refused(tmp_path, bytes(whole), "corrupt one (CRC check failed")

    def test_a_broken_header(self, tmp_path: Path) -> None:
        raw = bytearray(gzip.decompress(tgz(LFW)))
        second = 512 + -(-len(next(iter(LFW.values()))) // 512) * 512
        raw[second + 3] ^= 1
        lfw_refused(tmp_path, gzip.compress(bytes(raw)), "not a tar file, or a corrupt one")

    @pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>quota</html>", b"PK\3\4", bytes(100), b"\x1f\x8b"])
    def test_what_is_no_archive(self, content: bytes, tmp_path: Path) -> None:
        lfw_refused(tmp_path, content, "truncated" if content == b"\x1f\x8b" else "not a gzip file")

    def test_a_gzip_of_something_else(self, tmp_path: Path) -> None:
        lfw_refused(tmp_path, gzip.compress(b"<html>" * 1000), "not a tar file")

    @pytest.mark.parametrize(
        "record", [b"19 GNU.sparse.x=1\n", b"9 size=9\n", b"99 path=x\n", b"0 path=x\n", b"x", b"6 a=b"]
    )
    def test_a_pax_header_that_is_odd(self, record: bytes, tmp_path: Path) -> None:
        lfw_refused(tmp_path, tgz({}, [(header("pax", tarfile.XHDTYPE, len(record)), record)]), "pax header")

    @pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
    def test_all_formats_are_read_alike(self, form: int, tmp_path: Path) -> None:
        names = ["a/b.jpg", "a/" + "long" * 20 + "/" + "name" * 10 + ".jpg", "d/e"]
        if form != tarfile.USTAR_FORMAT:
            names += ["x" * 300, "é/ü" * 40]
        path = tmp_path / "a.tgz"
        with tarfile.open(path, "w:gz", format=form) as archive:
            archive.addfile(header("a/", tarfile.DIRTYPE))
            for size, name in enumerate(names, start=510):
                info = header(name, size=size)
                info.mtime = 1.5
                archive.addfile(info, io.BytesIO(name.encode()[:1] * size))
        assert list(read_tgz(path)) == [(name, name.encode()[:1] * size) for size, name in enumerate(names, start=510)]


class TestZip:
    @pytest.mark.parametrize("name", [*EVIL_NAMES, "img_align_celeba/../../"])
    def test_a_name_that_leads_out(self, name: str, tmp_path: Path) -> None:
        celeba_refused(tmp_path, zipped({**CELEBA, name: b""}), f"member {name!r} has a name that leads out")

    def test_a_name_with_a_nul(self, tmp_path: Path) -> None:
        archive = zipped({**CELEBA, "good.jpgX../evil": b"x"}).replace(b"good.jpgX", b"good.jpg\0")
        celeba_refused(tmp_path, archive, r"member 'good.jpg\x00../evil' has a name that leads out")

    @pytest.mark.parametrize("mode", [0o120777, 0o020644, 0o060644, 0o010644, 0o140644])
    def test_links_and_devices(self, mode: int, tmp_path: Path) -> None:
        content = io.BytesIO(zipped(CELEBA))
        with zipfile.ZipFile(content, "a") as archive:
            info = zipfile.ZipInfo("img_align_celeba/evil.jpg")
            info.external_attr = mode << 16
            archive.writestr(info, "/etc/passwd")
        celeba_refused(tmp_path, content.getvalue(), "member 'img_align_celeba/evil.jpg' is neither a plain file nor")

    def test_an_encrypted_member(self, tmp_path: Path) -> None:
        archive = bytearray(zipped(CELEBA))
        at = archive.rindex(b"PK\1\2")
        archive[at + 8] |= 1
        celeba_refused(tmp_path, bytes(archive), "member 'img_align_celeba/000010.jpg' is encrypted")

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_a_compression_that_cannot_be_bounded(self, method: int, tmp_path: Path) -> None:
        celeba_refused(tmp_path, zipped(CELEBA, method), f"is compressed by method {method}")

    def test_a_member_that_is_there_twice(self, tmp_path: Path) -> None:
        content = io.BytesIO(zipped(CELEBA))
        with zipfile.ZipFile(content, "a") as archive:
            archive.writestr("./" + ZIP_VICTIM, b"x")
        celeba_refused(tmp_path, content.getvalue(), f"member {ZIP_VICTIM!r} is there twice")

    def test_a_bomb_that_says_so(self, tmp_path: Path) -> None:
        archive = zipped({**CELEBA, ZIP_VICTIM: bytes(80 << 20)}, zipfile.ZIP_DEFLATED)
        celeba_refused(tmp_path, archive, f"member {ZIP_VICTIM!r} says it has 83886080 bytes")

    def test_a_bomb_that_lies_about_its_size(self, tmp_path: Path) -> None:
        path = tmp_path / "bomb.zip"
        archive = zipped({"a.jpg": bytes(80 << 20)}, zipfile.ZIP_DEFLATED)
        path.write_bytes(archive.replace(struct.pack("<I", 80 << 20), struct.pack("<I", 1000)))
        tracemalloc.start()
        with (
            pytest.raises(GenlibError, match=r"bomb.zip: member 'a.jpg' is corrupt \(Bad CRC-32"),
            open_zip(path) as opened,
        ):
            opened.read("a.jpg")
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
        tracemalloc.stop()

    def test_a_bomb_of_many_members(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "MEMBERS", 9)
        celeba_refused(tmp_path, zipped(CELEBA), "is member number 10, more than the 9")

    def test_a_bomb_of_many_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "TOTAL_BYTES", 10_000)
        celeba_refused(tmp_path, zipped(CELEBA), "is where the archive exceeds the")

    def test_a_table_of_contents_without_end(self, tmp_path: Path) -> None:
        path = tmp_path / "table.zip"
        size = 65 << 20
        with path.open("wb") as file:
            file.truncate(size)
            file.seek(size)
            file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size, 0, 0))
        tracemalloc.start()
        with pytest.raises(GenlibError, match=f"a table of contents of {size} bytes"), open_zip(path):
            pass
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()

    @pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.9, 0.999])
    def test_a_truncated_archive(self, share: float, tmp_path: Path) -> None:
        whole = zipped(CELEBA)
        celeba_refused(tmp_path, whole[: int(len(whole) * share)], "not a zip file, or a truncated one")

    def test_an_archive_without_its_beginning(self, tmp_path: Path) -> None:
        """The table of contents is whole, the members are not where it says."""
        whole = zipped(CELEBA)
        celeba_refused(tmp_path, bytes(3000) + whole[3000:], "member 'img_align_celeba/000001.jpg' is corrupt")

    def test_a_member_whose_checksum_is_wrong(self, tmp_path: Path) -> None:
        whole = bytearray(zipped(CELEBA))
        whole[whole.index(CELEBA[ZIP_VICTIM]) + 900] ^= 1
        celeba_refused(tmp_path, bytes(whole), f"member {ZIP_VICTIM!r} is corrupt (Bad CRC-32")

    def test_a_web_page(self, tmp_path: Path) -> None:
        celeba_refused(tmp_path, b"<html>Quota exceeded</html>", "not a zip file", "perhaps a web page")

    def test_zip64(self, tmp_path: Path) -> None:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive, archive.open("a.jpg", "w", force_zip64=True) as member:
            member.write(b"abc")
        (tmp_path / "a.zip").write_bytes(content.getvalue())
        with open_zip(tmp_path / "a.zip") as opened:
            assert opened.read("a.jpg") == b"abc"


JPEG = encoded(drawn(1, 178, 218))


def exif_bomb() -> bytes:
    """A JPEG whose header says 60,000 x 60,000."""
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 5] + struct.pack(">HH", 60_000, 60_000) + JPEG[at + 9 :]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is not a JPEG image (starts with b'')"),
        (b"<!DOCTYPE html><html>no</html>", "is not a JPEG image (starts with b'<!DOCTYPE ht', perhaps a web page)"),
        (b"GIF89a" + bytes(50), "is not a JPEG image (starts with b'GIF89a"),
        (JPEG[:200], "a JPEG image"),
        (JPEG[: len(JPEG) // 2], "cannot be decoded (Premature end of JPEG file)"),
        (JPEG[:-2], "cannot be decoded (Premature end of JPEG file)"),
        (encoded(drawn(1, 178, 218)[:, :, 0]), "has colours of mode Gray, not RGB"),
        (encoded(np.zeros((218, 178, 4), np.uint8), "PNG"), "is not a JPEG image (starts with b'\\x89PNG"),
        (encoded(drawn(1, 1030, 218)), "has 1030 x 218 pixels, more than 1024 a side"),
        (exif_bomb(), "has 60000 x 60000 pixels, more than 1024 a side"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_member_that_is_no_whole_picture(content: bytes, fault: str, first: bool, tmp_path: Path) -> None:
    name = "img_align_celeba/000001.jpg" if first else ZIP_VICTIM
    celeba_refused(tmp_path, zipped({**CELEBA, name: content}), f"member {name!r} ", fault)


def test_a_cut_picture_in_a_tar(tmp_path: Path) -> None:
    lfw_refused(tmp_path, tgz({**LFW, VICTIM: LFW[VICTIM][:-300]}), f"member {VICTIM!r} cannot be decoded")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_spoiled_picture_is_decoded_or_refused(kind: str, seed: int, tmp_path: Path) -> None:
    """Whatever the decoders raise on damaged files is one of the faults that are said in a line."""
    from genlib.data.readers.decode import Shape, pixels
    from genlib.data.readers.reading import Picture

    content = spoiled(encoded(drawn(1, 30, 30), kind), seed)
    picture = Picture("train", 0, tmp_path / "a.zip", "a.jpg" if kind == "JPEG" else "a.png", content)
    try:
        assert pixels(picture, Shape((30, 30), (0, 0, 30, 30), 8)).shape == (3, 8, 8)
    except GenlibError as error:
        assert_clear(str(error), f"{tmp_path / 'a.zip'}: member 'a.")


@pytest.mark.parametrize("size", [8, 30])
def test_a_decoder_keeps_nothing_of_the_picture_before(size: int, tmp_path: Path) -> None:
    from genlib.data.readers.decode import Decoder, Shape, pixels
    from genlib.data.readers.reading import Picture

    shape = Shape((40, 30), (5, 0, 35, 30), size)
    pictures = [Picture("train", 0, tmp_path, "a.jpg", encoded(drawn(seed, 40, 30), "JPEG")) for seed in range(3)]
    decode = Decoder(shape)
    for made, picture in zip(list(map(decode, pictures)), pictures, strict=True):
        np.testing.assert_array_equal(made, pixels(picture, shape))


SMALL: Members = {"d/a.jpg": b"abc" * 50, "d/b.jpg": b"xyz" * 9}
PACKED = {"a.zip": zipped(SMALL, zipfile.ZIP_DEFLATED), "a.tgz": tgz(SMALL)}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", list(PACKED))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_spoiled_archive_is_read_or_refused(name: str, inside: bool, seed: int, tmp_path: Path) -> None:
    path = tmp_path / name
    packed = PACKED[name]
    is_tar = name.endswith("tgz")
    path.write_bytes(
        gzip.compress(spoiled(gzip.decompress(packed), seed), 1) if is_tar and inside else spoiled(packed, seed)
    )
    try:
        if is_tar:
            assert all(len(content) <= limits.MEMBER_BYTES for _, content in read_tgz(path))
        else:
            with open_zip(path) as archive:
                for member in archive.members:
                    archive.read(member)
    except GenlibError as error:
        assert_clear(str(error), path)


def spoiled(content: bytes, seed: int) -> bytes:
    """A few bytes changed, left out or put in, or the end cut off."""
    chance = random.Random(seed)
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        what = chance.random()
        if what < 0.7:
            data[at] = chance.choice([0, 255, chance.randrange(256)])
        elif what < 0.8:
            del data[at + 1 : at + 9]
        elif what < 0.9:
            data[at:at] = chance.randbytes(3)
        else:
            del data[max(at, 1) :]
    return bytes(data)
