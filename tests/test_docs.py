"""What README and CONTRIBUTING name exists; no tracked file names a package registry or a path of one machine."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

PROJECT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
PAGES = sorted(path.relative_to(PROJECT).as_posix() for path in (*PROJECT.glob("*.md"), *PROJECT.glob("*/*.md")))
COMMANDS = [page for page in PAGES if page != "docs/extending.md"]  # tests/test_extending.py runs what that one says
REGISTRY = re.compile(r"\b(pypi|npmjs|anaconda|debian)\.(org|com)\b|pythonhosted\.|\bproxy\.golang\.", re.IGNORECASE)
MACHINE_PATH = re.compile(r"(?<![\w.>/*-])/(root|home|Users|work|opt|mnt)/\w")


def _read(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def _yaml(name: str) -> Any:
    return YAML(typ="safe").load(PROJECT / name)


def _code(document: str) -> list[str]:
    """The lines of fenced blocks and the inline code of a Markdown text, without shell comments."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", document, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", document, flags=re.MULTILINE | re.DOTALL))
    return [line.split("  #")[0].strip() for block in fenced for line in block.splitlines()] + inline


@cache
def _targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", _read("Makefile"), flags=re.MULTILINE))


@cache
def _stages() -> set[str]:
    """Names as DVC makes them: `step@key` for each key of the section of params.yaml that the step runs over."""
    params = _yaml("params.yaml")
    found = set()
    for step, entry in _yaml("dvc.yaml")["stages"].items():
        found |= {f"{step}@{key}" for key in params[entry["foreach"].strip("${}")]}
    return found


def _has(section: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(section, dict) or key not in section:
            return False
        section = section[key]
    return True


def _map_entries(readme: str) -> list[str]:
    """Paths of the folder map; two spaces before a name put it into the folder above."""
    block = re.search(r"^## Folders\n+```\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    assert block is not None, "README.md: no folder map under '## Folders'"
    entries, folder = [], ""
    for line in block[1].splitlines():
        name = line.split()[0]
        folder = folder if line.startswith("  ") else name
        entries.append(folder + name if line.startswith("  ") else name)
    return entries


@pytest.mark.parametrize("name", DOCUMENTS)
def test_make_targets_exist(name: str) -> None:
    used = {target for line in _code(_read(name)) for target in re.findall(r"\bmake ([a-z]+)", line)}
    assert used
    assert used <= _targets()


def test_every_target_is_in_the_help() -> None:
    recipe = re.search(r"^help:\n((?:\t.*\n)+)", _read("Makefile"), flags=re.MULTILINE)
    assert recipe is not None
    assert set(re.findall(r'"make ([a-z]+)', recipe[1])) == _targets() - {"help"}


def test_commands_by_hand_are_those_of_the_makefile() -> None:
    makefile = re.sub(
        r"\$\((HOST|PORT)\)", lambda name: {"HOST": "127.0.0.1", "PORT": "5001"}[name[1]], _read("Makefile")
    )
    rows = re.findall(r"^\| `make (demo|test|repro|lint)` \| (.*) \|$", _read("README.md"), flags=re.MULTILINE)
    assert len(rows) == 4
    for target, commands in rows:
        recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
        assert recipe is not None
        lines = [line.strip() for line in recipe[1].splitlines() if not line.startswith("\t@")]
        assert re.findall(r"`([^`]+)`", commands) == [line for line in lines if not line.startswith("print")]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_stages_exist(name: str) -> None:
    for line in _code(_read(name)):
        assert set(re.findall(r"\b[a-z]+@[\w-]+", line)) <= _stages(), line
        for module in re.findall(r"python -m (stages\.\w+)", line):
            assert (PROJECT / (module.replace(".", "/") + ".py")).is_file(), line


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_of_every_page_exist(name: str) -> None:
    for line in _code(_read(name)):
        assert set(re.findall(r"(?<!Python )\bmake ([a-z]+)(?= |$)", line)) <= _targets(), line
        assert set(
            re.findall(r"(?<![\w/])(?:download|preprocess|features|train|sample|evaluate|present)@[\w-]+", line)
        ) <= (_stages()), line
        for module in re.findall(r"python -m ((?:stages|benchmarks)(?:\.\w+)+|fuzz|genlib)\b", line):
            path = PROJECT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), line
        for command in re.findall(r"python -m genlib ([a-z]+)", line):
            assert command in {"sample", "reconstruct", "interpolate", "compare", "doctor"}, line


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    """Links to files of the project and to headings of pages; addresses elsewhere are not asked."""
    for target in re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", _read(name), flags=re.MULTILINE | re.DOTALL)
    ):
        if target.startswith(("http://", "https://")):
            continue
        path, _, heading = target.partition("#")
        file = (PROJECT / name).parent / path if path else PROJECT / name
        assert file.exists(), f"{name}: {target}"
        if heading:
            assert heading in _headings(file.read_text(encoding="utf-8")), f"{name}: {target}"


def _headings(page: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_settings_exist() -> None:
    params = _yaml("params.yaml")
    used = [found for line in _code(_read("README.md")) for found in re.findall(r"-S (\+?)([\w.-]+)=", line)]
    assert used
    for plus, dotted in used:
        keys = dotted.split(".")
        assert _has(params, keys[:-1]), dotted
        assert _has(params, keys) != bool(plus), (
            f"{dotted}: a plus goes with a key that is not there yet, and only with it"
        )


def test_paths_of_the_folder_map_exist() -> None:
    ignored = {line.strip("/") for line in _read(".gitignore").splitlines()}
    missing = [path for path in _map_entries(_read("README.md")) if not (PROJECT / path).exists()]
    assert [path for path in missing if path.rstrip("/") not in ignored] == []


def test_environment_variables_are_those_that_the_code_reads() -> None:
    modules = [*(PROJECT / "genlib").rglob("*.py"), *(PROJECT / "stages").rglob("*.py")]
    code = "\n".join(module.read_text(encoding="utf-8") for module in modules)
    table = re.findall(r"^\| `(GENLIB_[A-Z]+)` \|", _read("README.md"), flags=re.MULTILINE)
    assert set(table) == set(re.findall(r"\bGENLIB_[A-Z]+\b", code))


def test_nothing_is_left_to_be_done() -> None:
    for name in DOCUMENTS:
        assert "TODO" not in _read(name), name


def test_patterns_find_what_they_are_for() -> None:
    assert REGISTRY.search("https://" + "pypi" + ".org/simple")
    assert MACHINE_PATH.search("see /" + "root/secret")
    assert not MACHINE_PATH.search("https://example.com/home/page, net/opt/x")


@pytest.mark.skipif(shutil.which("git") is None or not (PROJECT / ".git").exists(), reason="not a git repository")
def test_no_registry_and_no_machine_path_in_tracked_files() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True, text=True).stdout
    found = []
    for name in filter(None, listed.split("\0")):
        path = PROJECT / name
        if not path.is_file() or b"\0" in (data := path.read_bytes()):
            continue  # deleted in the working tree, or binary
        for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
            if REGISTRY.search(line) or MACHINE_PATH.search(line):
                found.append(f"{name}:{number}: {line.strip()[:120]}")
    assert found == []
