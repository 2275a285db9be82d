"""Downloads against a local server that answers as the real ones do; nothing half-written after any failure."""

import gzip
import hashlib
import io
import json
import os
import random
import resource
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import LocalServer, Reply, closed_port, page, ranged, serve

from genlib.claims import claimed
from genlib.data import drive
from genlib.data.fetch import Transfer
from genlib.data.mirror import find_mirror, parse_sums
from genlib.data.official import Content, MismatchError, RemoteFile, Tree, verify
from genlib.data.sources import CATALOGUE, draw_dataset, fetch_dataset, provide_dataset
from genlib.errors import GenlibError
from genlib.settings import FacesSource, MnistSource

DATA = random.Random(7).randbytes(700_000)
NAME = "images.bin"
QUICK = Transfer(retries=2, backoff_seconds=0.001, max_wait_seconds=0, connect_seconds=5, read_seconds=5)
CONFIRM = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form action="/search"><input type="hidden" name="id" value="wrong"></form>
<form id="download-form" action="{action}" method="get"><input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="1qq"><input type="hidden" name="export" value="download">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="a&amp;b"></form></body></html>"""
QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-caption">Sorry, you can&#39;t view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENLIB_MIRROR", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with serve() as local:
        yield local


class Place:
    """A dataset of one or more files, fetched into a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "raw" / "set"
        self.work = folder / "work" / "set"

    def fetch(self, *files: RemoteFile, transfer: Transfer = QUICK) -> None:
        fetch_dataset("kind", "set", self.out, self.work, {"kind": files}, transfer)

    def fails(self, *files: RemoteFile, transfer: Transfer = QUICK) -> str:
        """The one line of the GenlibError that fetching ends in; nothing may be left in place of the output."""
        with pytest.raises(GenlibError) as caught:
            self.fetch(*files, transfer=transfer)
        line = str(caught.value)
        assert "\n" not in line
        assert not self.out.exists()
        assert not self.out.parent.exists() or list(self.out.parent.iterdir()) == []
        return line

    def origin(self) -> dict[str, Any]:
        origin: dict[str, Any] = json.loads((self.out / "origin.json").read_text())
        return origin

    def verified(self) -> tuple[str, str]:
        (entry,) = self.origin()["files"]
        return entry["source"], entry["verified"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def remote(*urls: str, data: bytes = DATA, name: str = NAME, max_bytes: int = 1 << 20) -> RemoteFile:
    return RemoteFile(name, max_bytes, urls, md5=md5(data))


def make_mirror(folder: Path, data: bytes = DATA, listed: str | None = None) -> Path:
    (folder / "kind").mkdir(parents=True)
    (folder / "kind" / NAME).write_bytes(data)
    (folder / "SHA256SUMS").write_text(f"{listed or sha256(data)}  kind/{NAME}\n")
    return folder


def test_plain(server: LocalServer, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.fetch(remote(server.on("/a", Reply(body=DATA))))
    assert (place.out / NAME).read_bytes() == DATA
    entry = {"name": NAME, "bytes": len(DATA), "sha256": sha256(DATA), "source": "official", "verified": "archive"}
    assert place.origin() == {"dataset": "set", "files": [entry]}
    assert sorted(path.name for path in place.out.iterdir()) == [NAME, "origin.json"]
    assert not place.work.exists()
    out, err = capsys.readouterr()
    assert out == ""
    assert "\r" not in err
    assert f"kind/{NAME}: 700kB of 700kB" in err


def test_a_terminal_gets_a_bar(
    server: LocalServer, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    place.fetch(remote(server.on("/a", Reply(body=DATA))))
    err = capsys.readouterr().err
    assert f"\rkind/{NAME}: 100%" in err
    assert "B/s]" in err


def test_sha256_decides_where_both_checksums_are_given(server: LocalServer, place: Place) -> None:
    url = server.on("/a", Reply(body=DATA))
    place.fetch(RemoteFile(NAME, 1 << 20, (url,), md5="0" * 32, sha256=sha256(DATA)))
    assert place.verified() == ("official", "archive")


def test_redirect(server: LocalServer, place: Place) -> None:
    server.on("/b", Reply(body=DATA))
    place.fetch(remote(server.on("/a", Reply(302, headers={"Location": "/b"}))))
    assert (place.out / NAME).read_bytes() == DATA


def test_a_body_labelled_as_encoded_is_kept_as_it_is(server: LocalServer, place: Place) -> None:
    packed = gzip.compress(DATA, mtime=0)
    place.fetch(remote(server.on("/a", Reply(body=packed, headers={"Content-Encoding": "gzip"})), data=packed))
    assert (place.out / NAME).read_bytes() == packed
    assert server.log[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("etag", ['"v1"', None])
def test_a_cut_transfer_goes_on_where_it_stopped(server: LocalServer, place: Place, etag: str | None) -> None:
    place.fetch(remote(server.on("/a", ranged(DATA, etag, cut=300_000), ranged(DATA, etag))))
    assert (place.out / NAME).read_bytes() == DATA
    first, second = server.ranges()
    assert first is None
    assert second is not None
    assert 200_000 < int(second.removeprefix("bytes=").removesuffix("-")) <= 300_000
    assert server.log[1].headers.get("if-range") == etag


def test_a_weak_etag_is_no_validator(server: LocalServer, place: Place) -> None:
    date = {"ETag": 'W/"v1"', "Last-Modified": "Sat, 22 Nov 2025 12:00:00 GMT"}
    place.fetch(remote(server.on("/a", Reply(body=DATA, headers=date, cut=300_000), Reply(body=DATA))))
    assert server.log[1].headers["if-range"] == date["Last-Modified"]


def test_a_stopped_download_goes_on_in_the_next_call(server: LocalServer, place: Place) -> None:
    small = remote(server.on("/small", Reply(body=b"small")), data=b"small", name="small.txt")
    url = server.on("/a", ranged(DATA, '"v"', cut=300_000), Reply(404))
    place.fails(small, remote(url))
    server.on("/a", ranged(DATA, '"v"'))
    place.fetch(small, remote(url))
    assert (place.out / NAME).read_bytes() == DATA
    assert (place.out / "small.txt").read_bytes() == b"small"
    assert [asked.path for asked in server.log].count("/small") == 1
    assert server.ranges()[-1] is not None


def test_a_file_that_changed_in_the_meantime_is_fetched_anew(server: LocalServer, place: Place) -> None:
    old = bytes(len(DATA))
    place.fetch(remote(server.on("/a", ranged(old, '"old"', cut=300_000), ranged(DATA, '"new"'))))
    assert (place.out / NAME).read_bytes() == DATA
    assert len(server.log) == 2


def test_a_wrong_seam_is_noticed_and_the_file_fetched_anew(server: LocalServer, place: Place) -> None:
    old = bytes(len(DATA))
    place.fetch(remote(server.on("/a", ranged(old, cut=300_000), ranged(DATA))))
    assert (place.out / NAME).read_bytes() == DATA
    assert [asked is None for asked in server.ranges()] == [True, False, True]


def test_a_part_of_another_address_is_not_continued(server: LocalServer, place: Place) -> None:
    first = server.on("/a", ranged(bytes(len(DATA)), '"v"', cut=300_000), Reply(404))
    place.fetch(remote(first, server.on("/b", ranged(DATA, '"v"'))))
    assert (place.out / NAME).read_bytes() == DATA
    assert [asked is None for asked in server.ranges()] == [True, False, True]


def test_a_server_that_ignores_range(server: LocalServer, place: Place) -> None:
    place.fetch(remote(server.on("/a", Reply(body=DATA, cut=300_000), Reply(body=DATA))))
    assert (place.out / NAME).read_bytes() == DATA
    assert server.ranges()[1] is not None


@pytest.mark.parametrize("kind", ["application/octet-stream", "text/html"])
def test_a_server_that_refuses_the_range(server: LocalServer, place: Place, kind: str) -> None:
    refusal = Reply(416, b"<html>no</html>", {"Content-Type": kind})
    place.fetch(remote(server.on("/a", Reply(body=DATA, cut=300_000), refusal, Reply(body=DATA))))
    assert (place.out / NAME).read_bytes() == DATA
    assert [asked is None for asked in server.ranges()] == [True, False, True]


def test_a_server_that_answers_another_range(
    server: LocalServer, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Reply(206, DATA[5:], {"Content-Range": f"bytes 5-{len(DATA) - 1}/{len(DATA)}"})
    place.fetch(remote(server.on("/a", Reply(body=DATA, cut=300_000), other, Reply(body=DATA))))
    assert (place.out / NAME).read_bytes() == DATA
    assert "does not go on at byte" in capsys.readouterr().err
    assert [asked is None for asked in server.ranges()] == [True, False, True]


def test_a_connection_that_always_breaks_is_given_up(server: LocalServer, place: Place) -> None:
    line = place.fails(remote(server.on("/a", Reply(body=DATA, cut=300_000))))
    assert "the connection broke" in line
    assert len(server.log) == 3


def test_tries_are_counted_anew_while_the_file_grows(server: LocalServer, place: Place) -> None:
    data = DATA * 12
    url = server.on("/a", ranged(data, '"v"', cut=1_500_000))
    place.fetch(remote(url, data=data, max_bytes=len(data)))
    assert (place.out / NAME).read_bytes() == data
    assert len(server.log) > 1 + QUICK.retries


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_then_well(server: LocalServer, place: Place, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    busy = Reply(status, b"<html>busy</html>", {"Retry-After": "3600", "Content-Type": "text/html"})
    place.fetch(remote(server.on("/a", busy, Reply(status, headers={"Retry-After": "soon"}), Reply(body=DATA))))
    assert (place.out / NAME).read_bytes() == DATA
    assert f"HTTP {status}" in capsys.readouterr().err


def test_waits_grow_unless_the_server_names_one(
    server: LocalServer, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    busy, told = Reply(503), Reply(503, headers={"Retry-After": "7"})
    late = Reply(503, headers={"Retry-After": "3600"})
    patient = Transfer(retries=6, backoff_seconds=1, max_wait_seconds=10)
    place.fetch(remote(server.on("/a", busy, busy, busy, told, late, busy, Reply(body=DATA))), transfer=patient)
    assert waits == [2, 4, 7, 10, 10]


def test_the_next_official_address_is_tried(server: LocalServer, place: Place) -> None:
    wrong = server.on("/wrong", Reply(body=DATA[:-1] + b"x"))
    place.fetch(remote(server.url + "/missing", closed_port(), wrong, server.on("/a", Reply(body=DATA))))
    assert (place.out / NAME).read_bytes() == DATA


def test_nowhere(server: LocalServer, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = make_mirror(tmp_path / "mirror")
    (mirror / "kind" / NAME).unlink()
    monkeypatch.setenv("GENLIB_MIRROR", str(mirror))
    line = place.fails(remote(server.url + "/missing"))
    for part in (f"kind/{NAME}", "no such file", "127.0.0.1 (HTTP 404", "GENLIB_MIRROR=", "dvc repro --keep-going"):
        assert part in line
    assert len(server.log) == 1


def test_no_network(place: Place) -> None:
    line = place.fails(remote(closed_port() + "/a"))
    assert "127.0.0.1 (no connection (Connection refused), 3 tries)" in line
    assert "try later" in line


def test_a_page_instead_of_the_file(server: LocalServer, place: Place) -> None:
    line = place.fails(remote(server.on("/a", page("<html><title>Sign in\nplease</title></html>"))))
    assert "an HTML page (Sign in please)" in line


def test_a_page_that_claims_to_be_the_file(server: LocalServer, place: Place) -> None:
    html = b"\xef\xbb\xbf\n <!DOCTYPE html><p>welcome"
    line = place.fails(RemoteFile(NAME, 1 << 20, (server.on("/a", Reply(body=html)),), md5=md5(html)))
    assert "an HTML page that claims to be the file" in line


def test_wrong_checksum(server: LocalServer, place: Place) -> None:
    line = place.fails(remote(server.on("/a", Reply(body=DATA[1:]))))
    assert f"expected md5 {md5(DATA)}, got {md5(DATA[1:])}" in line
    assert len(server.log) == 1
    assert not (place.work / NAME).exists()


@pytest.mark.parametrize("length", [True, False])
def test_no_more_than_the_stated_size_is_written(server: LocalServer, place: Place, length: bool) -> None:
    line = place.fails(remote(server.on("/a", Reply(body=DATA, length=length)), max_bytes=len(DATA) - 1))
    assert "this file may have" in line
    assert not (place.work / NAME).exists()


def test_a_body_of_unannounced_length(server: LocalServer, place: Place) -> None:
    place.fetch(remote(server.on("/a", Reply(body=DATA, length=False)), max_bytes=len(DATA)))
    assert (place.out / NAME).read_bytes() == DATA


def test_too_little_disk_is_said_before_the_transfer(server: LocalServer, place: Place) -> None:
    huge = Reply(headers={"Content-Length": str(1 << 60)})
    line = place.fails(remote(server.on("/a", huge), max_bytes=1 << 62))
    assert "make room" in line
    assert not (place.work / NAME).exists()


def test_an_earlier_output_stays_when_a_fetch_fails(server: LocalServer, place: Place) -> None:
    place.fetch(remote(server.on("/a", Reply(body=DATA))))
    with pytest.raises(GenlibError):
        place.fetch(remote(server.url + "/missing"))
    assert (place.out / NAME).read_bytes() == DATA


def test_two_at_once(server: LocalServer, place: Place) -> None:
    place.work.parent.mkdir(parents=True)
    with claimed(place.work.with_name("set.claim"), "fetching set"):
        assert "another process" in place.fails(remote(server.on("/a", Reply(body=DATA))))
    assert server.log == []


def test_unknown_kind(place: Place) -> None:
    with pytest.raises(GenlibError, match="'lsun' has no official source; use one of celeba, lfw, mnist"):
        fetch_dataset("lsun", "set", place.out, place.work)


def on_drive(server: LocalServer) -> tuple[RemoteFile, Transfer]:
    transfer = Transfer(retries=2, backoff_seconds=0.001, max_wait_seconds=0, drive_base=server.url)
    return RemoteFile(NAME, 1 << 20, drive_id="1qq", md5=md5(DATA)), transfer


def test_drive_small_file(server: LocalServer, place: Place) -> None:
    file, transfer = on_drive(server)
    server.on("/download", Reply(body=DATA))
    place.fetch(file, transfer=transfer)
    assert server.log[0].path == "/download?id=1qq&export=download&confirm=t"
    assert place.verified() == ("official", "archive")


def test_drive_confirmation(server: LocalServer, place: Place) -> None:
    file, transfer = on_drive(server)
    asks = page(CONFIRM.format(action=f"{server.url}/really?authuser=0"))
    server.on("/download", asks)
    server.on("/really", ranged(DATA, cut=300_000), ranged(DATA))
    place.fetch(file, transfer=transfer)
    assert (place.out / NAME).read_bytes() == DATA
    assert server.log[1].path == "/really?authuser=0&id=1qq&export=download&confirm=t&uuid=a%26b"
    assert server.log[3].headers["range"].startswith("bytes=")


def test_drive_confirmation_without_end(server: LocalServer, place: Place) -> None:
    file, transfer = on_drive(server)
    server.on("/download", page(CONFIRM.format(action="/download")))
    line = place.fails(file, transfer=transfer)
    assert "HTML page (Google Drive - Virus scan warning)" in line
    assert len(server.log) == 2


@pytest.mark.parametrize("status", [200, 403, 429])
@pytest.mark.parametrize("confirmed", [False, True])
def test_drive_quota(server: LocalServer, place: Place, status: int, confirmed: bool) -> None:
    file, transfer = on_drive(server)
    server.on("/download", page(CONFIRM.format(action="/really")) if confirmed else page(QUOTA, status))
    server.on("/really", page(QUOTA, status))
    line = place.fails(file, transfer=transfer)
    assert "quota" in line
    assert f"by hand from https://drive.google.com/file/d/1qq/view, at <mirror>/kind/{NAME}" in line
    assert "<mirror>/SHA256SUMS" in line
    assert len(server.log) == 1 + confirmed


def test_drive_quota_of_celeba(server: LocalServer, tmp_path: Path) -> None:
    """All that a person needs to go on: why, from where by hand, and where to put it."""
    server.on("/download", page(QUOTA))
    transfer = Transfer(retries=0, drive_base=server.url)
    with pytest.raises(GenlibError) as caught:
        fetch_dataset("celeba", "celeba", tmp_path / "celeba", tmp_path / "work", transfer=transfer)
    assert str(caught.value) == (
        "celeba/img_align_celeba.zip: no source gives it, tried 127.0.0.1 (Google Drive's download quota for this file "
        "is used up (it comes back within a day or so)); try later, or put the file, downloaded by hand from "
        "https://drive.google.com/file/d/0B7EVK8r0v71pZjFTYXZWM3FlRnM/view, at <mirror>/celeba/img_align_celeba.zip "
        "with its line '<sha256>  celeba/img_align_celeba.zip' in <mirror>/SHA256SUMS and set GENLIB_MIRROR=<mirror> "
        "(a folder or URL), or go on with the other datasets: dvc repro --keep-going"
    )
    assert not (tmp_path / "celeba").exists()


@pytest.mark.parametrize("text", ["", "<", "<![foo[", "<form id=download-form action='javascript:x'>", "<title>" * 99])
def test_pages_of_any_kind_lead_nowhere(text: str) -> None:
    assert drive.confirmation_url(text, "https://example.org/") is None
    assert drive.title(text) == drive.title(text)[:80]


@pytest.mark.parametrize("over_http", [False, True])
class TestMirror:
    """A folder and a URL behave alike."""

    @pytest.fixture(autouse=True)
    def _place(self, server: LocalServer, tmp_path: Path, over_http: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server, self.over_http = server, over_http
        self.folder = tmp_path / "mirror"
        monkeypatch.setenv("GENLIB_MIRROR", f"{server.url}/mirror/" if over_http else str(self.folder))

    def mirror(self, data: bytes = DATA, listed: str | None = None) -> None:
        make_mirror(self.folder, data, listed)
        for path in self.folder.rglob("*.*"):
            self.server.on(f"/mirror/{path.relative_to(self.folder)}", Reply(body=path.read_bytes()))
        self.server.on("/mirror/SHA256SUMS", Reply(body=(self.folder / "SHA256SUMS").read_bytes()))

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()
        del self.server.scripts[f"/mirror/{name}"]

    def official(self, data: bytes = DATA) -> RemoteFile:
        return remote(self.server.on("/official", Reply(body=data)), data=data)

    def asked_official(self) -> bool:
        return any(asked.path == "/official" for asked in self.server.log)

    def test_comes_first(self, place: Place) -> None:
        self.mirror()
        place.fetch(self.official())
        assert place.verified() == ("mirror", "archive")
        assert str(self.folder) not in (place.out / "origin.json").read_text()
        assert self.server.url not in (place.out / "origin.json").read_text()
        assert not self.asked_official()

    def test_compressed_again(self, place: Place) -> None:
        theirs, ours = gzip.compress(DATA, 1, mtime=0), gzip.compress(DATA, 0, mtime=0)
        self.mirror(ours)
        file = RemoteFile(NAME, 1 << 20, md5=md5(theirs), content=Content(md5(DATA), len(DATA)))
        place.fetch(file)
        assert place.verified() == ("mirror", "content")

    @pytest.mark.parametrize("extra", [-1, 1])
    def test_compressed_again_but_other_content(self, place: Place, extra: int) -> None:
        self.mirror(gzip.compress(DATA, mtime=0))
        place.fetch(RemoteFile(NAME, 1 << 20, md5="0" * 32, content=Content(md5(DATA), len(DATA) + extra)))
        assert place.verified() == ("mirror", "mirror list")

    def test_other_data_by_its_own_list(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        self.mirror(b"a subset")
        place.fetch(self.official())
        assert (place.out / NAME).read_bytes() == b"a subset"
        assert place.verified() == ("mirror", "mirror list")
        assert "not known to be the official data" in capsys.readouterr().err

    def test_without_the_file(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        self.mirror()
        self.remove(f"kind/{NAME}")
        place.fetch(self.official())
        assert place.verified() == ("official", "archive")
        assert f"kind/{NAME}: not from the mirror in GENLIB_MIRROR" in capsys.readouterr().err

    def test_without_the_line(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        self.mirror()
        (self.folder / "SHA256SUMS").write_text("")
        self.server.on("/mirror/SHA256SUMS", Reply())
        place.fetch(self.official())
        assert place.verified() == ("official", "archive")
        assert "its SHA256SUMS does not list it" in capsys.readouterr().err

    def test_without_a_list(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        self.mirror()
        self.remove("SHA256SUMS")
        place.fetch(self.official())
        assert place.verified() == ("official", "archive")
        assert "no SHA256SUMS" in capsys.readouterr().err

    def test_corrupt(self, place: Place) -> None:
        self.mirror(DATA[1:], listed=sha256(DATA))
        line = place.fails(self.official())
        for part in (f"kind/{NAME}", f"expected sha256 {sha256(DATA)}, got {sha256(DATA[1:])}", "mend the mirror"):
            assert part in line
        assert not self.asked_official()

    def test_malformed_list(self, place: Place) -> None:
        self.mirror(listed="xyz")
        assert "SHA256SUMS line 1" in place.fails(self.official())

    def test_too_large(self, place: Place) -> None:
        self.mirror(DATA + DATA)
        place.fetch(self.official())
        assert place.verified() == ("official", "archive")


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(bytes(32 << 20), 1, mtime=0))
    file = RemoteFile("bomb.gz", 1 << 20, md5="0" * 32, content=Content("0" * 32, 10))
    tracemalloc.start()
    with pytest.raises(MismatchError):
        verify(bomb, file)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


TREE = {"set/b/1.jpg": b"one", "set/a.txt": b"", "set/\u00e9.jpg": bytes(600)}


def tree(files: dict[str, bytes]) -> Tree:
    """As the shell would make it: sha256sum of each file, sorted, hashed again."""
    lines = sorted(f"{sha256(content)}  {name}\n" for name, content in files.items())
    return Tree(sha256("".join(lines).encode()), len(files), sum(map(len, files.values())))


def packed(files: dict[str, bytes], level: int = 9) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=level) as archive:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return content.getvalue()


@pytest.mark.parametrize(
    ("archive", "official"),
    [
        (packed(TREE), True),
        (packed(dict(reversed(TREE.items())), level=1), True),
        (packed({**TREE, "set/b/1.jpg": b"two"}), False),
        (packed({name: content for name, content in TREE.items() if content}), False),
        (packed({**TREE, "set/more": b""}), False),
        (packed({**TREE, "set/more": bytes(4 << 20)}), False),
        (packed({**TREE, "set/../../evil": b""}), False),
        (packed({name.replace("set", "sat"): content for name, content in TREE.items()}), False),
        (packed(TREE)[:-4], False),
        (b"", False),
        (b"<html>", False),
        (gzip.compress(bytes(64 << 20), 1), False),
    ],
)
def test_an_archive_packed_again_is_known_by_its_files(archive: bytes, official: bool, tmp_path: Path) -> None:
    path = tmp_path / "set.tgz"
    path.write_bytes(archive)
    file = RemoteFile("set.tgz", 1 << 20, md5="0" * 32, content=tree(TREE))
    tracemalloc.start()
    assert verify(path, file, sha256(archive)) == (sha256(archive), "content" if official else "mirror list")
    assert tracemalloc.get_traced_memory()[1] < 24 << 20
    tracemalloc.stop()
    if official:
        assert verify(path, file) == (sha256(archive), "content")
    else:
        with pytest.raises(MismatchError, match="expected md5"):
            verify(path, file)
        assert not path.exists()


def test_an_unreachable_mirror_is_said(
    server: LocalServer, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENLIB_MIRROR", closed_port())
    place.fetch(remote(server.on("/a", Reply(body=DATA))))
    assert place.verified() == ("official", "archive")
    assert "not from the mirror in GENLIB_MIRROR (no SHA256SUMS: no connection" in capsys.readouterr().err


def test_our_own_disk_is_not_the_mirrors_fault(
    server: LocalServer, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official source is not asked: what it sent could not be written either."""
    monkeypatch.setenv("GENLIB_MIRROR", str(make_mirror(tmp_path / "mirror")))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(DATA) // 2, limits[1]))
    try:
        with pytest.raises(GenlibError, match=rf"{NAME}.*: cannot be written \(File too large") as caught:
            place.fetch(remote(server.on("/official", Reply(body=DATA))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "official source" not in str(caught.value)
    assert not place.out.exists()


def test_find_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_mirror({}) is None
    assert find_mirror({"GENLIB_MIRROR": " "}) is None
    assert find_mirror({"GENLIB_MIRROR": "data"}) == tmp_path / "data"
    assert find_mirror({"GENLIB_MIRROR": "../data", "DVC_ROOT": str(tmp_path / "repo")}) == tmp_path / "data"
    assert find_mirror({"GENLIB_MIRROR": str(tmp_path), "DVC_ROOT": "/elsewhere"}) == tmp_path
    assert find_mirror({"GENLIB_MIRROR": "https://example.org/m/"}) == "https://example.org/m"


@pytest.mark.parametrize("value", ["nowhere", "ftp://example.org", "https://", "http:///m", "https://u:secret@a b"])
def test_what_is_no_mirror(value: str) -> None:
    with pytest.raises(GenlibError, match=r"GENLIB_MIRROR: .*; set it to") as caught:
        find_mirror({"GENLIB_MIRROR": value})
    assert "secret" not in str(caught.value)


def test_parse_sums() -> None:
    low, high = "a" * 64, "B" * 64
    assert parse_sums(f"{low}  mnist/x.gz\n\n{high} *./lfw/a b.txt\r\n") == {"mnist/x.gz": low, "lfw/a b.txt": "b" * 64}
    for line in (f"{low} mnist/x", f"{low[1:]}  mnist/x", "mnist/x", f"{low}  "):
        with pytest.raises(GenlibError, match="line 2"):
            parse_sums(f"{low}  good\n{line}\n")


def test_drawn(tmp_path: Path) -> None:
    def draw(folder: Path) -> None:
        (folder / "b.gz").write_bytes(b"b")

    out = tmp_path / "raw" / "toy"
    draw_dataset("toy", out, draw)
    entry = {"name": "b.gz", "bytes": 1, "sha256": sha256(b"b"), "source": "drawn", "verified": "drawn"}
    assert json.loads((out / "origin.json").read_text()) == {"dataset": "toy", "files": [entry]}


def test_faces_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw_faces(folder: Path, *counts: int) -> None:
        (folder / "counts").write_text(repr(counts))

    monkeypatch.setattr("genlib.data.kinds.faces.draw_faces", draw_faces)
    source = FacesSource(kind="faces", train_images=7, validation_images=5, test_images=3)
    provide_dataset(source, "faces", tmp_path / "out", tmp_path / "work")
    assert (tmp_path / "out" / "counts").read_text() == "(7, 5, 3)"
    (entry,) = json.loads((tmp_path / "out" / "origin.json").read_text())["files"]
    assert entry["verified"] == "drawn"


def test_drawing_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def draw(folder: Path) -> None:
        (folder / "half").write_bytes(b"")
        raise GenlibError("no ink")

    with pytest.raises(GenlibError, match="no ink"):
        draw_dataset("toy", tmp_path / "raw" / "toy", draw)
    assert list((tmp_path / "raw").iterdir()) == []


def test_the_catalogue_is_complete() -> None:
    for files in CATALOGUE.values():
        assert len({file.name for file in files}) == len(files)
        for file in files:
            assert file.sha256 or file.md5
            assert file.addresses(QUICK)
            assert all(address.url.startswith("https://") for address in file.addresses(QUICK))


def stage(*arguments: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages.download", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_stage_without_its_mirror_is_one_line(tmp_path: Path) -> None:
    params = str(Path(__file__).parents[1] / "params.yaml")
    done = stage(
        "mnist", "--out", "raw/mnist", "--params", params, cwd=tmp_path, env={"GENLIB_MIRROR": str(tmp_path / "no")}
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: GENLIB_MIRROR: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_stage_of_an_unknown_dataset(tmp_path: Path) -> None:
    params = str(Path(__file__).parents[1] / "params.yaml")
    done = stage("minst", "--out", "raw/minst", "--params", params, cwd=tmp_path, env={})
    assert done.returncode == 1
    assert "data.minst" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_stage_needs_no_torch() -> None:
    code = "import stages.download, sys; print([m for m in ('torch', 'torchvision', 'mlflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


_REAL = os.environ.get("GENLIB_MIRROR", "")


@pytest.mark.skipif(not _REAL, reason="GENLIB_MIRROR names no mirror")
def test_real_mirror(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_MIRROR", _REAL)
    provide_dataset(MnistSource(kind="mnist"), "mnist", place.out, place.work)
    files = place.origin()["files"]
    assert [file["name"] for file in files] == [file.name for file in CATALOGUE["mnist"]]
    assert {file["source"] for file in files} == {"mirror"}
    assert {file["verified"] for file in files} <= {"archive", "content"}
