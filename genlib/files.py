"""Outputs appear whole or not at all: write beside the target, fsync, rename."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from genlib.errors import GenlibError


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step; a reader sees the old file or the new one, never a part."""
    with staged_file(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON. NaN and infinity are refused (ValueError): they are not JSON."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is a GenlibError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise GenlibError(f"{path}: no such file; run the stage that writes it (dvc repro)") from error
    except ValueError as error:
        raise GenlibError(f"{path}: not valid JSON ({error}); delete it and run dvc repro") from error


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; when the block ends well it is fsynced and renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        _fsync(partial)
        partial.replace(path)
        _fsync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; when the block ends well its files are fsynced and it replaces `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for item in partial.rglob("*"):
            _fsync(item)
        _fsync(partial)
        if path.exists():
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


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
