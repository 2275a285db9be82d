"""What has to hold of files from strangers, and safetensors files in parts.

The files of test_hostile_*.py are read or refused in one short line, in little memory and time. What the fuzzers in
fuzz/ found is among them, each case made small.
"""

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from genlib.errors import GenlibError

MIB = 1 << 20


def refusal(run: Callable[[], object]) -> str:
    """The message of the GenlibError: short, and in one printable line."""
    with pytest.raises(GenlibError) as caught:
        run()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 2000
    return message


def settled(run: Callable[[], object]) -> None:
    """It ends well, or as `refusal` wants it."""
    message = ""
    try:
        run()
    except GenlibError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 2000


@contextmanager
def frugal(most: int) -> Iterator[None]:
    """No more than `most` bytes are allocated by Python and numpy, and 10 s pass."""
    began = time.perf_counter()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most
    assert time.perf_counter() - began < 10


def parts_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, parsed, and its body."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def rewrite(path: Path, header: dict[str, Any], body: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
