"""What the fuzzers share: the loop around one reader, what counts as a finding, and mutators that know formats."""

import argparse
import json
import random
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path
from typing import Any

import atheris

from genlib.errors import GenlibError

Read = Callable[[Path, bytes], object]
"""Write the input into the folder, as the file or files that it stands for, and call the reader."""

Mutate = Callable[[bytes, random.Random], bytes]
"""Change an input at one place, within its format."""

MEMORY_BYTES = 1 << 30
"""What one input may add to the memory of the process."""

SECONDS = 10
"""What one input may take."""

MESSAGE_CHARACTERS = 2000

_INPUT_BYTES = 1 << 16
_FORBIDDEN = {"pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"}
_WRITERS = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate"}
_JSON_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 1.5, 1e-320, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**30),
    *("", "a", "vae", "gan", "../../etc/passwd", "\x1b[2J\n", "\u202e", "9" * 5000, [], {}, [0] * 50, {"a": [{}]}),
]


class FindingError(Exception):
    """An input that a reader neither read nor refused in one line."""


def instrumented() -> AbstractContextManager[None]:
    """Imports inside are watched for coverage, if they are ours or build values from YAML (its scanner is too slow)."""
    watched = ["genlib", "ruamel.yaml.composer", "ruamel.yaml.constructor"]
    context: AbstractContextManager[None] = atheris.instrument_imports(include=watched)
    return context


def fuzz(name: str, read: Read, seeds: Iterable[bytes], mutate: Mutate | None = None) -> None:
    """Feed `read` with mutated inputs, from `seeds` on, for as long as the command line says.

    Findings are left in <folder>/<name>/, the corpus in <folder>/<name>/corpus/; the exit status says if there is one.
    """
    parser = argparse.ArgumentParser(prog=f"python -m fuzz.{name}", description=__doc__)
    parser.add_argument("inputs", nargs="*", type=Path, help="read these files, once each, instead of fuzzing")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--folder", type=Path, default=Path(".work/fuzz"))
    arguments = parser.parse_args()
    folder = (arguments.folder / name).resolve()
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    inside = Path(tempfile.mkdtemp())
    for index, seed in enumerate(seeds):
        (corpus / f"seed-{index:02d}").write_bytes(seed)
    for path in arguments.inputs or sorted(corpus.glob("seed-*")):  # now what is imported late, is imported
        _judge(read, inside, path.read_bytes(), [])
    if arguments.inputs:
        return

    breaches: list[str] = []
    sys.addaudithook(_watch(inside, breaches))

    def judge(data: bytes) -> None:
        try:
            _judge(read, inside, data, breaches)
        except BaseException:  # libFuzzer saves it as well, unless its own alarm ends the process before
            (folder / f"finding-{sha256(data).hexdigest()[:16]}").write_bytes(data)
            raise

    def change(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if mutate is None or chance.random() < 0.3:
            return bytes(atheris.Mutate(data, most))
        changed = mutate(data, chance)
        return changed if len(changed) <= most else bytes(atheris.Mutate(data, most))

    libfuzzer = [
        f"-max_total_time={arguments.seconds}",
        f"-timeout={SECONDS}",
        f"-rss_limit_mb={(_status('VmRSS') + MEMORY_BYTES) >> 20}",
        f"-max_len={_INPUT_BYTES}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    atheris.Setup([sys.argv[0], str(corpus), *libfuzzer], judge, custom_mutator=change)
    atheris.Fuzz()


def _judge(read: Read, folder: Path, data: bytes, breaches: list[str]) -> None:
    """Success, or GenlibError with a short message in one printable line; anything else is a finding."""
    before = _status("VmPeak")
    try:
        read(folder, data)
    except GenlibError as error:
        message = str(error)
        if not message.isprintable() or len(message) > MESSAGE_CHARACTERS:
            raise FindingError(f"the message is not one short line: {message[:MESSAGE_CHARACTERS]!r}") from error
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError) or "allocate memory" in str(cause):
                raise FindingError(f"memory ran out: {str(cause)[:MESSAGE_CHARACTERS]}") from error
            cause = cause.__cause__ or cause.__context__
    if breaches:
        raise FindingError("; ".join(breaches))
    if _status("VmPeak") - before > MEMORY_BYTES:
        raise FindingError(f"memory grew by {(_status('VmPeak') - before) >> 20} MiB")


def _watch(folder: Path, breaches: list[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that notes what runs code, and what writes outside `folder`."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN:
            breaches.append(f"{event} {arguments[:1]}")
        elif event in _WRITERS or (event == "open" and _writes(arguments)):
            path = arguments[0]
            if isinstance(path, str | bytes) and not Path(_text(path)).resolve().is_relative_to(folder):
                breaches.append(f"{event} {path!r}")

    return hook


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return bool(set(mode or "") & set("wax+")) or (isinstance(flags, int) and bool(flags & 3))


def _text(path: str | bytes) -> str:
    return path if isinstance(path, str) else path.decode("utf-8", "surrogateescape")


def _status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    raise LookupError(key)


def bytewise(data: bytes, most: int = _INPUT_BYTES) -> bytes:
    """Any change of a few bytes, as libFuzzer makes it."""
    return bytes(atheris.Mutate(data, most))


def packed(*parts: bytes) -> bytes:
    """Several files as one input."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def unpacked(data: bytes, count: int) -> list[bytes]:
    """The files of an input; whatever is missing is empty."""
    parts = []
    for _ in range(count):
        size = int.from_bytes(data[:4], "little")
        parts.append(data[4 : 4 + size])
        data = data[4 + size :]
    return parts


def json_changed(text: bytes, chance: random.Random) -> bytes:
    """JSON with one value replaced, removed or given another name; text that is not JSON is changed bytewise."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return bytewise(text)
    try:
        return json.dumps(tree_changed(tree, chance)).encode()
    except (ValueError, RecursionError):  # an integer of too many digits
        return bytewise(text)


def tree_changed(tree: Any, chance: random.Random) -> Any:
    """The same for lists and dicts."""
    places = list(_places(tree))
    if not places:
        return chance.choice(_JSON_VALUES)
    holder, key = chance.choice(places)
    match chance.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[chance.choice([*holder, "a", "\n", "x" * 300, "../b"])] = holder[key]
        case 2:
            _, other = chance.choice(places)
            holder[key] = json.loads(json.dumps(_at(places, other, holder[key])))
        case _:
            holder[key] = chance.choice(_JSON_VALUES)
    return tree


def _places(tree: Any) -> Iterable[tuple[Any, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)


def _at(places: list[tuple[Any, Any]], key: Any, default: Any) -> Any:
    return next((holder[key] for holder, name in places if name == key), default)
