"""Changes within a safetensors file: in its header, in our metadata there, in a tensor's entry, or in the bytes."""

import json
import random
from typing import Any

from fuzz.harness import bytewise, json_changed, tree_changed

_DTYPES = ["F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X"]
_SIZES = [0, 1, -1, 3, 2**31, 2**32, 2**63, 2**64, 10**30]


def changed(data: bytes, chance: random.Random) -> bytes:
    """One change that keeps the length of the header right, most of the time."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        entries = [value for key, value in header.items() if key != "__metadata__" and isinstance(value, dict)]
    except (ValueError, AttributeError, RecursionError):
        return bytewise(data)
    body = data[8 + size :]
    match chance.randrange(8):
        case 0 | 1 | 2:
            _change_metadata(header, chance)
        case 3 if entries:
            chance.choice(entries)["dtype"] = chance.choice(_DTYPES)
        case 4 if entries:
            entry = chance.choice(entries)
            key = chance.choice(["shape", "shape", "data_offsets"])
            entry[key] = _resized(entry.get(key), chance)
        case 5:
            header = tree_changed(header, chance)
        case 6:
            body = bytewise(body)
        case _:
            return bytewise(data)
    try:
        text = json.dumps(header).encode()
    except (ValueError, RecursionError):
        return bytewise(data)
    length = len(text) if chance.random() < 0.95 else chance.choice([0, 2**27, 2**40, 2**64 - 1])
    return length.to_bytes(8, "little") + text + body


def _change_metadata(header: dict[str, Any], chance: random.Random) -> None:
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict) and isinstance(metadata.get("genlib"), str):
        text = metadata["genlib"].encode("utf-8", "replace")
        changed = json_changed(text, chance) if chance.random() < 0.8 else bytewise(text)
        metadata["genlib"] = changed.decode("utf-8", "replace")


def _resized(sizes: Any, chance: random.Random) -> Any:
    sizes = list(sizes) if isinstance(sizes, list) else []
    match chance.randrange(3):
        case 0:
            return [*sizes, 1]
        case 1:
            return sizes[::-1]
        case _:
            return [chance.choice([*_SIZES, size]) for size in sizes]
