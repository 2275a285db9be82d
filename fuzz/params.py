"""Fuzzes `params.load`: YAML with aliases, tags, merges, odd numbers and deep nesting, and the settings in it."""

import io
import json
import random
from pathlib import Path
from typing import Any

from fuzz.harness import bytewise, fuzz, instrumented, tree_changed

with instrumented():
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from genlib import params

_PARSED_BYTES = 4000
COMMITTED = Path(__file__).parent.parent / "params.yaml"
SNIPPETS = [
    *("&a", "*a", "<<: *a", "<<: [*a, *a]", "[*a, *a, *a, *a, *a, *a, *a, *a]", "&b {a: *a}", "? [a]", "? {a: b}"),
    *("!!int", "!!float", "!!bool", "!!binary", "!!timestamp", "!!set", "!!omap", "!!null", "!!python/name:os.system"),
    *(
        "0x" + "f" * 900,
        "9" * 5000,
        "1e400",
        "-.inf",
        ".nan",
        "0o7",
        "1_0",
        "2001-01-01T25:00Z",
        '"\\ud800"',
        '"\\x1b"',
    ),
    *("%YAML 1.1\n---\n", "%TAG ! x\n---\n", "---\n", "...\n", "[" * 90, "{a: " * 90, "- " * 90, "|\n", ">-\n", "\t"),
]


def read(folder: Path, data: bytes) -> None:
    path = folder / "params.yaml"
    path.write_bytes(data)
    everything = params.load(path)
    assert all(everything.run(name).epochs > 0 for name in everything.runs)


def seeds() -> list[bytes]:
    whole = YAML(typ="safe").load(COMMITTED)
    for section, kept in (("data", "digits celeba"), ("features", "digits"), ("runs", "digits-gan digits-vae")):
        whole[section] = {name: whole[section][name] for name in kept.split()}
    whole["lanes"] = {"demo": {"title": "a"}}
    whole["evaluate"]["importance_of"] = {}
    for model in ("ae", "bernoulli_vae"):
        del whole[model]
    laughs = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
    merges = "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 20))
    bombs = [f"a0: &a0 {{b: 1}}\n{lines}".encode() for lines in (laughs, merges)]
    return [as_yaml(whole), json.dumps(whole).encode(), *bombs]


def as_yaml(tree: Any) -> bytes:
    text = io.BytesIO()
    YAML(typ="safe").dump(tree, text)
    return text.getvalue()


def mutate(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.4:
        at = chance.randrange(len(data) + 1)
        return data[:at] + chance.choice([" ", "", "\n"]).encode() + chance.choice(SNIPPETS).encode() + data[at:]
    try:
        tree = json.loads(data) if data.startswith(b"{") else _parsed(data)
        return json.dumps(tree_changed(tree, chance)).encode()
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return bytewise(data)


def _parsed(data: bytes) -> Any:
    if len(data) > _PARSED_BYTES or b"*" in data:
        raise ValueError("not worth parsing")
    return YAML(typ="safe").load(data)


if __name__ == "__main__":
    fuzz("params", read, seeds(), mutate)
