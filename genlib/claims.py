"""One process at a time writes an output: a stage that was left behind by a stopped dvc may still be at work."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from genlib.errors import GenlibError
from genlib.files import refusal_named

WORK = Path(".work")
"""Where a project keeps what is no output of a stage and must outlive one that is killed."""


@contextmanager
def claimed(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock in `folder` during the block; the operating system frees it when the process ends, however it ends.

    Raises:
        GenlibError: another process holds it, and `what` says in the message what it is doing; or the folder cannot be
            written.
    """
    lock, holder = FileLock(folder / "lock"), folder / "holder"
    try:
        with refusal_named(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout as error:
        known = (holder.read_text() if holder.exists() else "") or "unknown"
        raise GenlibError(
            f"{lock.lock_file}: another process ({known}) is {what}, perhaps left over from a dvc that was stopped; "
            "wait for it or stop it, then run again"
        ) from error
    try:
        with refusal_named(holder):
            holder.write_text(f"pid {os.getpid()}")
        yield
    finally:
        lock.release()


@contextmanager
def claimed_output(path: Path) -> Iterator[None]:
    """Hold the lock of an output of a stage during the block. GenlibError if another process is writing it."""
    place = path.resolve()
    with claimed(WORK / "outputs" / place.relative_to(place.anchor), f"writing {path}"):
        yield
