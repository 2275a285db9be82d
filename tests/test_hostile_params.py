"""A params.yaml from a stranger: read or refused in one short line, in little memory and time."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strangers import MIB, frugal, refusal, settled

from genlib import params

ROOT = Path(__file__).resolve().parent.parent


def load_text(text: str | bytes, folder: Path) -> params.Params:
    path = folder / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return params.load(path)


def laughs(levels: int, opening: str, closing: str) -> str:
    lines = [f"a{n}: &a{n} {opening}{', '.join([f'*a{n - 1}'] * 9)}{closing}" for n in range(1, levels)]
    return "\n".join(["a0: &a0 {b: 1}", *lines])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (laughs(20, "[", "]"), "aliases (*name) expand it"),
        (laughs(20, "{<<: [", "]}"), "aliases (*name) expand it"),
        ("a: &a [*a]", "an alias (*name) stands for what it is part of"),
        ("a: &a {b: *a}", "an alias (*name) stands for what it is part of"),
        ("a: &a {<<: *a}", "an alias (*name) stands for what it is part of"),
        ("seed: 0x" + "f" * 2000, "a value or key of more than 1000 characters"),
        ("? " + "a" * 1001 + "\n: 1", "a value or key of more than 1000 characters"),
        ("seed: 0 #" + "x" * params.FILE_BYTES, "more than 32 KiB"),
        ("seed: " + "[" * 2000, "more than 100 brackets are open at once"),  # they took 9 s
        ("#" + "]" * 2000 + "\nseed: " + "{a: [" * 60, "more than 100 brackets are open at once"),
        ("- " * 1000, "not valid YAML"),
        ("a: *" + "9" * 5000, "found undefined alias"),
        ("a: 1\na: 2", "duplicate key"),
        ("a: !!python/object/apply:os.mkdir [trap]", "not valid YAML"),
        ('"\\ud800": 1', r"params.yaml: \ud800: unknown section"),
        ('"\\x1b[2J": 1', r"params.yaml: \x1b[2J: unknown section"),
    ],
    ids=lambda value: value[:16] if isinstance(value, str) else "",
)
def test_yaml_that_is_made_to_harm(text: str, fault: str, alone: Path) -> None:
    with frugal(100 * MIB):
        assert fault in refusal(lambda: load_text(text, alone))
    assert {path.name for path in alone.iterdir()} == {"params.yaml"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "0x" + "f" * 900),
        ("seed", str(2**63)),
        ("runs.digits-gan.epochs", "0x" + "f" * 900),
        ("runs.digits-gan.epochs", str(2**63)),
        ("gan.lr", "1e400"),
        ("gan.lr", ".nan"),
        ("gan.lr", "-.inf"),
        ("gan.lr", "0x" + "f" * 900),
        ("gan.dropout", '"\\x1b[2J"'),
        ("data.digits.source.kind", '"\\x1b[2J"'),
        ("data.digits.source.kind", "[" + "x, " * 900 + "x]"),
        ("runs.digits-gan.model", "[" + "x, " * 900 + "x]"),
        ("runs.digits-gan.net", "{" + ", ".join(f"x{n}: 1" for n in range(500)) + "}"),
        ("lanes.demo.title", '"\\ud800"'),
        ("lanes", "[" + "x, " * 900 + "x]"),
        ('runs.digits-gan."\\x1b[2J"', "1"),
        ('"\\x1b[2J"', "1"),
    ],
)
def test_a_value_made_to_harm(key: str, value: str, raw: dict[str, Any], alone: Path) -> None:
    *sections, last = key.split(".")
    target = raw
    for section in sections:
        target = target[section]
    target["LAST" if last.startswith('"') else last] = "VALUE"
    text = json.dumps(raw).replace('"LAST"', last).replace('"VALUE"', value)
    with frugal(100 * MIB):
        refusal(lambda: load_text(text, alone))


def test_aliases_and_merges_that_a_person_writes_are_read(raw: dict[str, Any], tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    shared = text.replace("  digits-ae:\n    lane: demo\n", "  digits-ae: &own\n    lane: demo\n")
    more = shared + "  another:\n    <<: *own\n    epochs: 7\n"
    everything = load_text(more, tmp_path)
    assert everything.run("another").epochs == 7
    assert everything.run("another").width == everything.run("digits-ae").width == raw["runs"]["digits-ae"]["width"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.sampled_from("abc019:-?,[]{}&*!|>'\"%@#. \n\t<~=_x\\\x1b\u2028\ufeff"), max_size=60))
def test_any_text_as_params(text: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settled(lambda: load_text(text.encode("utf-8", "surrogatepass"), tmp_path))
