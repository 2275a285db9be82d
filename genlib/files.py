"""Outputs appear whole or not at all: write beside the target, fsync, rename."""

import errno
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import escape as glob_escape
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlib.errors import GenlibError

if TYPE_CHECKING:
    from numpy.typing import NDArray

JSON_BYTES = 4 << 20
"""The largest JSON file that is read; the pipeline's own have less than one MiB."""

STORAGE = {  # what a disk or a folder may say, as opposed to a mistake of ours
    getattr(errno, name)
    for name in (
        "ENOSPC",
        "EDQUOT",
        "EFBIG",
        "EROFS",
        "EACCES",
        "EPERM",
        "EIO",
        "EEXIST",
        "EISDIR",
        "ENOTDIR",
        "ENAMETOOLONG",
        "ELOOP",
        "EMFILE",
        "ENFILE",
        "ESTALE",
    )
    if hasattr(errno, name)
}
"""Numbers of the errors with which a disk or a folder refuses a file."""


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step; a reader sees the old file or the new one, never a part."""
    with staged_file(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON. NaN and infinity are refused (ValueError): they are not JSON."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of at most `JSON_BYTES`; a missing or broken one is a GenlibError that names it."""
    try:
        with path.open("rb") as file:
            content = file.read(JSON_BYTES + 1)
        if len(content) > JSON_BYTES:
            raise ValueError(f"more than {JSON_BYTES >> 20} MiB")
        return json.loads(content.decode("utf-8"), parse_constant=_no_number)
    except FileNotFoundError as error:
        raise GenlibError(f"{path}: no such file; run the stage that writes it (dvc repro)") from error
    except OSError as error:
        raise GenlibError(f"{path}: cannot be read ({error.strerror}); mend that and run again") from error
    except (ValueError, RecursionError) as error:
        raise GenlibError(f"{path}: not valid JSON ({error}); delete it and run dvc repro") from error


def write_array(path: Path, array: "NDArray[Any]") -> None:
    """Write an array as .npy. In one piece: numpy's own writing does not say why a disk refuses it."""
    import numpy as np

    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_bytes(path, content.getvalue())


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; when the block ends well it is fsynced and renamed to `path`.

    GenlibError, which names `path`, if the disk or the folder does not take it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with refusal_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(path)
        try:
            yield partial
            _fsync(partial)
            partial.replace(path)
            _fsync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def staged_folder(path: Path, earlier: Iterable[str] = ()) -> Iterator[Path]:
    """Yield an empty folder beside `path`; when the block ends well its files are fsynced and it replaces `path`.

    GenlibError, which names `path`, if the disk or the folder does not take it, and if `path` is a link, or holds what
    is neither replaced nor `earlier`: names that are known to be its own of another time.
    """
    if path.is_symlink() or not path.name or path.name == "..":
        raise GenlibError(f"{path}: not a folder that can be replaced as a whole; name another")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with refusal_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(path)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            for item in partial.rglob("*"):
                _fsync(item)
            _fsync(partial)
            if path.exists():
                _check_own(path, {item.name for item in partial.iterdir()}.union(earlier))
                shutil.rmtree(path)
            partial.rename(path)
            _fsync(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    checksum = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest()


@contextmanager
def refusal_named(path: Path) -> Iterator[None]:
    """A disk's or a folder's refusal inside the block becomes a GenlibError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        place = f" at {_meant(Path(error.filename))}" if isinstance(error.filename, str) else ""
        raise GenlibError(
            f"{_meant(path)}: cannot be written ({error.strerror}{place}); make room or mend that, and run again: "
            "nothing half-written is left"
        ) from error


def _check_own(path: Path, names: set[str]) -> None:
    """GenlibError if a folder that is to be replaced holds anything else."""
    others = sorted(item.name for item in path.iterdir() if item.name not in names)
    if others:
        more = f" and {len(others) - 1} more" if others[1:] else ""
        raise GenlibError(
            f"{path}: is to be replaced, and holds {others[0]!r}{more}, "
            "which would be lost; move that away, or name another folder: nothing was replaced"
        )


def _meant(path: Path) -> Path:
    """A path as it will be called once the folders and files in it are whole."""
    return Path(*(re.sub(r"^\.(.+)\.\d+\.partial$", r"\1", part) for part in path.parts))


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _clear_abandoned(path: Path) -> None:
    """Remove the parts of `path` that processes left which were killed while they wrote."""
    for partial in path.parent.glob(f".{glob_escape(path.name)}.*.partial"):
        pid = partial.name.split(".")[-2]
        if pid.isdecimal() and not _alive(int(pid)):
            partial.unlink() if partial.is_file() else shutil.rmtree(partial, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
