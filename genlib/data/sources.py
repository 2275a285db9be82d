"""Where datasets come from: the official archives and their checksums, a mirror, our own drawing, a user's folder.

`data/raw/<dataset>/` then holds the files under their official names and `origin.json`, which says of each where it
came from and how far it is known to be the official one.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from genlib.claims import claimed
from genlib.data import drive
from genlib.data.fetch import DEFAULT, SourceError, Transfer, download
from genlib.data.kinds import celeba, lfw, mnist
from genlib.data.kinds.folder import list_images
from genlib.data.meter import say
from genlib.data.mirror import LIST_NAME, VARIABLE, Mirror, find_mirror, open_mirror
from genlib.data.official import MismatchError, RemoteFile, Verified, verify
from genlib.errors import GenlibError
from genlib.files import digest, read_json, refusal_named, staged_folder, write_json
from genlib.memory import keep_freed
from genlib.settings import DigitsSource, FacesSource, FolderSource, Source

CATALOGUE: Mapping[str, tuple[RemoteFile, ...]] = {
    "mnist": mnist.OFFICIAL,
    "lfw": lfw.OFFICIAL,
    "celeba": celeba.OFFICIAL,
}
"""The official files of each kind of source."""

_ORIGIN = "origin.json"

Taken = Literal["mirror", "official", "drawn", "folder"]


@dataclass(frozen=True)
class FileRecord:
    """One entry of origin.json."""

    name: str
    bytes: int
    sha256: str
    source: Taken
    verified: Verified


def provide_dataset(source: Source, dataset: str, out: Path, work: Path) -> None:
    """Fetch, draw or list what `data.<dataset>.source` of params.yaml asks for; see `fetch_dataset`, `draw_dataset`."""
    if isinstance(source, DigitsSource):
        # Imported here, so that a download does not pay for the fonts.
        from genlib.data.kinds.digits import draw_digits

        def draw(folder: Path) -> None:
            draw_digits(folder, source.train_images, source.test_images)

    elif isinstance(source, FacesSource):
        from genlib.data.kinds.faces import draw_faces

        counts = (source.train_images, source.validation_images, source.test_images)

        def draw(folder: Path) -> None:
            draw_faces(folder, *counts)

    elif isinstance(source, FolderSource):
        with claimed(_claim(work), f"listing {dataset}"):
            draw_dataset(dataset, out, partial(list_images, source, dataset), "folder", "listed")
        return

    else:
        fetch_dataset(source.kind, dataset, out, work)
        return
    keep_freed()
    with claimed(_claim(work), f"drawing {dataset}"):
        draw_dataset(dataset, out, draw)


def draw_dataset(
    dataset: str,
    out: Path,
    draw: Callable[[Path], None],
    source: Taken = "drawn",
    verified: Verified = "drawn",
) -> None:
    """Make `out` of the files that `draw` writes into an empty folder, and their origin.json."""
    with staged_folder(out, _names_in(out)) as folder:
        draw(folder)
        records = [_record(path, source, digest(path), verified) for path in sorted(folder.iterdir())]
        _write_origin(folder, dataset, records)


def fetch_dataset(
    kind: str,
    dataset: str,
    out: Path,
    work: Path,
    catalogue: Mapping[str, tuple[RemoteFile, ...]] = CATALOGUE,
    transfer: Transfer = DEFAULT,
) -> None:
    """Make `out` of the official files of `kind` and their origin.json, all of them or nothing.

    Each file is asked of the mirror in GENLIB_MIRROR, then of its official addresses. What has arrived stays in `work`
    until all is there, so that a later call goes on from it. Raises GenlibError if a file cannot be had, if the mirror
    is not one or breaks its own list, or if another process is fetching into `work`.
    """
    if kind not in catalogue:
        raise GenlibError(f"{dataset}: {kind!r} has no official source; use one of {', '.join(sorted(catalogue))}")
    base = find_mirror(os.environ)
    with claimed(_claim(work), f"fetching {dataset}"):
        with refusal_named(work):
            work.mkdir(parents=True, exist_ok=True)
        mirror = None if base is None else open_mirror(base, work, transfer)
        records = [_fetch(kind, file, mirror, work / file.name, transfer) for file in catalogue[kind]]
        with staged_folder(out, _names_in(out)) as folder:
            for record in records:
                _place(work / record.name, folder / record.name)
            _write_origin(folder, dataset, records)
        shutil.rmtree(work)


def _claim(work: Path) -> Path:
    """Beside `work`, which goes when all of it is fetched."""
    return work.with_name(f"{work.name}.claim")


def _place(part: Path, path: Path) -> None:
    """A second name for the file, so that a kill before all of them are in place does not cost a transfer."""
    try:
        path.hardlink_to(part)
    except OSError:  # another file system, or one without links
        shutil.copyfile(part, path)


def _fetch(kind: str, file: RemoteFile, mirror: Mirror | None, part: Path, transfer: Transfer) -> FileRecord:
    """Bring one file to `part` from the first source that gives it."""
    key = f"{kind}/{file.name}"
    tried = []
    if mirror is not None:
        try:
            return _from_mirror(key, file, mirror, part, transfer)
        except SourceError as error:
            say(f"{key}: not from the mirror in {VARIABLE} ({error}); going on to the official source")
            tried.append(f"the mirror in {VARIABLE} ({error})")
    for address in file.addresses(transfer):
        try:
            say(f"{key}: from {address.host}")
            bring = partial(download, address, part, file.max_bytes, key, transfer)
            return _record(part, "official", *_checked(bring, part, file))
        except SourceError as error:
            say(f"{key}: not from {address.host} ({error})")
            tried.append(f"{address.host} ({error})")
    by_hand = "" if file.drive_id is None else f", downloaded by hand from {drive.view_url(file.drive_id)},"
    raise GenlibError(
        f"{key}: no source gives it, tried {', '.join(tried)}; try later, or put the file{by_hand} at <mirror>/{key} "
        f"with its line '<sha256>  {key}' in <mirror>/{LIST_NAME} and set {VARIABLE}=<mirror> (a folder or URL), "
        "or go on with the other datasets: dvc repro --keep-going"
    )


def _from_mirror(key: str, file: RemoteFile, mirror: Mirror, part: Path, transfer: Transfer) -> FileRecord:
    listed = mirror.listed(key)
    try:
        bring = partial(mirror.bring, key, part, file.max_bytes, transfer)
        sha256, verified = _checked(bring, part, file, listed)
    except MismatchError as error:
        raise GenlibError(
            f"{key}: corrupt in the mirror: {error} (its {LIST_NAME} decides); mend the mirror or unset {VARIABLE}"
        ) from error
    if verified == "mirror list":
        say(f"{key}: as the mirror lists it, but not by the official checksum: not known to be the official data")
    return _record(part, "mirror", sha256, verified)


def _checked(
    bring: Callable[[], bool], part: Path, file: RemoteFile, listed: str | None = None
) -> tuple[str, Verified]:
    """Bring the file and verify it; once more from the start if it was put together from several answers."""
    pieced = bring()
    try:
        return verify(part, file, listed)
    except MismatchError as error:
        if not pieced:
            raise
        say(f"{file.name}: {error}, after a transfer in pieces; starting again")
    bring()
    return verify(part, file, listed)


def _record(path: Path, source: Taken, sha256: str, verified: Verified) -> FileRecord:
    return FileRecord(path.name, path.stat().st_size, sha256, source, verified)


def _names_in(out: Path) -> list[str]:
    """The files that were made there before, perhaps from another source, as far as that is known."""
    known = read_json(out / _ORIGIN) if (out / _ORIGIN).exists() else {}
    entries = known.get("files", []) if isinstance(known, dict) else []
    return [str(entry.get("name")) for entry in entries if isinstance(entry, dict)]


def _write_origin(folder: Path, dataset: str, records: list[FileRecord]) -> None:
    write_json(folder / _ORIGIN, {"dataset": dataset, "files": [asdict(record) for record in records]})
