"""A folder of the user's own images: listed where it lies, with a checksum of each; nothing of it is copied.

The list is what DVC sees of the folder. Preprocessing reads the images from the folder again, and refuses any that is
no longer the one listed.
"""

import os
import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import NoReturn

from genlib.data.meter import say, size
from genlib.data.readers.reading import LIST_BYTES, quoted
from genlib.errors import GenlibError
from genlib.files import write_bytes
from genlib.settings import FolderSource

LIST_NAME = "images.txt"
"""The list: a line `<sha256 in hex>  <path below the folder>` for each image, sorted by path."""

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""How the names of images end, in small or capital letters."""

FILE_BYTES = 128 << 20
"""The largest file that is read as an image; a photograph of 24 megapixels has 5 to 15 MB, as PNG or BMP up to 73."""

ENTRIES = 1_000_000
"""The most files and folders that are looked at."""

_PATH_BYTES = 1000
_KINDS_SHOWN = 8
_OPENED = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe that is called .jpg would never open


@dataclass
class Found:
    """What a folder holds: the paths of the images, sorted, and what was passed over, counted by what it is."""

    images: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def passed_over_in_words(self) -> str:
        """Such as "12 .heic, 2 hidden"; empty if nothing was."""
        commonest = sorted(self.passed_over.items(), key=lambda item: (-item[1], item[0]))[:_KINDS_SHOWN]
        return ", ".join(f"{count:,} {what}" for what, count in commonest)


def list_images(source: FolderSource, dataset: str, out: Path) -> None:
    """Write the list of a folder's images to `out`, and say what was found and what was passed over.

    Raises:
        GenlibError: there is no such folder, no image in it or too many; a link leads out of it; a file is too large,
            cannot be read or has a name that no list can hold.
    """
    root = locate(source, dataset)
    found = find_images(root)
    if not found.images:
        raise GenlibError(
            f"{root}: no image ({found.passed_over_in_words() or 'it is empty'}); put JPEG or PNG files there"
        )
    lines, copies, total = [], 0, 0
    known = set()
    for path in found.images:
        content = read_image(root, path, dataset)
        checksum = sha256(content).hexdigest()
        lines.append(f"{checksum}  {path}\n")
        copies += checksum in known
        known.add(checksum)
        total += len(content)
    text = "".join(lines).encode()
    if len(text) > LIST_BYTES:
        raise GenlibError(f"{root}: {len(lines):,} images, too many for a list of {LIST_BYTES >> 20} MiB; take fewer")
    write_bytes(out / LIST_NAME, text)
    also = f"; {copies:,} of them copies of others" if copies else ""
    passed_over = f"; passed over: {found.passed_over_in_words()}" if found.passed_over else ""
    say(f"{dataset}: {len(lines):,} images of {size(total)} in {root}{also}{passed_over}")


def locate(source: FolderSource, dataset: str) -> Path:
    """The folder that a source names, absolute. GenlibError if there is none.

    A relative path counts from DVC_ROOT if that is set, for DVC runs experiments in copies of the repository and leaves
    DVC_ROOT at the original, else from the current folder.
    """
    key = f"params.yaml: data.{dataset}.source.path"
    try:
        path = Path(os.environ.get("DVC_ROOT", "")) / Path(source.path).expanduser()
    except RuntimeError as error:
        raise GenlibError(f"{key}: {source.path!r}: there is no such home folder; write the path out") from error
    if not path.is_dir():
        raise GenlibError(f"{key}: {path.absolute()}: no such folder; set it to the folder of your images")
    return path.resolve()


def find_images(root: Path) -> Found:
    """The images anywhere below `root`, found by the ends of their names. GenlibError as `list_images`, unread."""
    found = Found()
    entries = 0
    for folder, folders, files in os.walk(root, onerror=_refuse):
        entries += len(folders) + len(files)
        if entries > ENTRIES:
            raise GenlibError(f"{root}: more than {ENTRIES:,} files and folders; name a smaller folder")
        here = Path(folder)
        folders[:] = [name for name in sorted(folders) if not _is_passed_over(root, here / name, found)]
        for name in files:
            path = here / name
            ending = PurePosixPath(name).suffix.lower()
            if _is_passed_over(root, path, found):
                continue
            if ending not in ENDINGS:
                found.passed_over[ending if re.fullmatch(r"\.[a-z0-9]{1,8}", ending) else "other"] += 1
                continue
            found.images.append(_checked_name(root, path))
    found.images.sort()
    return found


def read_image(root: Path, path: str, dataset: str) -> bytes:
    """A listed file of the folder. GenlibError if it is no plain file, too large, or cannot be read."""
    where = root / path
    try:
        with os.fdopen(os.open(where, _OPENED), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise GenlibError(f"{where}: neither a plain file nor a folder; remove it and run again")
            content = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise GenlibError(
            f"{where}: cannot be read ({error.strerror}); mend that, or {anew(dataset)} if it is gone"
        ) from error
    if len(content) > FILE_BYTES:
        raise GenlibError(f"{where}: more than the {FILE_BYTES >> 20} MiB that an image may have; make it smaller")
    return content


def anew(dataset: str) -> str:
    """How a folder that has changed is taken in."""
    return f"run dvc repro --force download@{dataset}"


def _is_passed_over(root: Path, path: Path, found: Found) -> bool:
    """Whether a file or folder is hidden, or a link: what one within the folder points to is there anyway."""
    if path.name.startswith("."):
        found.passed_over["hidden"] += 1
        return True
    if not path.is_symlink():
        return False
    if not Path(os.path.realpath(path)).is_relative_to(root):
        raise GenlibError(f"{_shown(path)}: a link that leads out of {root}; put the file itself there, or remove it")
    found.passed_over["links"] += 1
    return True


def _checked_name(root: Path, path: Path) -> str:
    name = path.relative_to(root).as_posix()
    if not name.isprintable() or len(name.encode()) > _PATH_BYTES:
        raise GenlibError(
            f"{root}: {quoted(name)}: the name has letters that cannot be shown, or more than {_PATH_BYTES} bytes; "
            "rename it"
        )
    return name


def _shown(path: Path) -> str:
    return path.as_posix() if path.as_posix().isprintable() else quoted(path.as_posix())


def _refuse(error: OSError) -> NoReturn:
    raise GenlibError(f"{error.filename}: cannot be read ({error.strerror}); mend that, or move it away") from error
