"""Stages side by side: which can be, in which order, and dvc repro's own results."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genlib.schedule import chains, parse_dot, shares_of_time, to_run, with_ancestors

ROOT = Path(__file__).resolve().parent.parent

# A stage that Ctrl-C stops when it has brought things in order, which takes a while; the next time, it ends at once.
SLOW = """
import signal, sys, time
from pathlib import Path
name, heard = sys.argv[1], []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
if Path(f"{name}.heard").exists():
    Path(name).write_text(name)
    sys.exit()
Path(f"{name}.begun").touch()
deadline = time.monotonic() + 20
while not heard and time.monotonic() < deadline:
    time.sleep(0.05)
time.sleep(1)
Path(f"{name}.heard").write_text(f"{len(heard)} time(s)")
sys.exit(130)
"""

DOT = """strict digraph {
"get";
"net";
"a";
"see@a";
"b";
"see@b";
"page";
"get" -> "net";
"get" -> "a";
"get" -> "b";
"net" -> "a";
"net" -> "b";
"a" -> "see@a";
"b" -> "see@b";
"see@a" -> "page";
"see@b" -> "page";
}
"""


def test_a_graph_is_read() -> None:
    graph = parse_dot(DOT)
    assert graph["get"] == frozenset()
    assert graph["a"] == {"get", "net"}
    assert graph["page"] == {"see@a", "see@b"}
    assert parse_dot('strict digraph {\n"alone";\n}\n') == {"alone": frozenset()}


def test_what_follows_a_change_runs_again_and_nothing_else() -> None:
    graph = parse_dot(DOT)
    assert to_run(graph, []) == set()
    assert to_run(graph, ["a"]) == {"a", "see@a", "page"}
    assert to_run(graph, ["see@b", "unknown"]) == {"see@b", "page"}
    assert to_run(graph, ["get"]) == set(graph)


def test_a_target_needs_what_it_reads_and_no_more() -> None:
    assert with_ancestors(parse_dot(DOT), ["see@a"]) == {"see@a", "a", "net", "get"}
    assert with_ancestors(parse_dot(DOT), ["net", "get"]) == {"net", "get"}
    with pytest.raises(KeyError):
        with_ancestors(parse_dot(DOT), ["nope"])


def test_stages_that_can_only_follow_each_other_are_a_chain() -> None:
    found = chains(parse_dot(DOT), parse_dot(DOT))
    assert [chain.stages for chain in found] == [("get", "net"), ("a", "see@a"), ("b", "see@b"), ("page",)]
    assert found[1].after == {"get", "net"}
    assert found[3].after == {"see@a", "see@b"}


def test_what_is_up_to_date_is_not_waited_for() -> None:
    graph = parse_dot(DOT)
    assert [(chain.stages, chain.after) for chain in chains(graph, to_run(graph, ["a"]))] == [
        (("a", "see@a", "page"), frozenset())
    ]


def test_the_time_of_stages_is_summed_by_step() -> None:
    assert shares_of_time({"train@a": 540.0, "sample@a": 60.0, "train@b": 600.0}, 660.0) == [
        "20.0 minutes of stages in 11.0 minutes:",
        "  train         19.0 min   95%  2 stages",
        "  sample         1.0 min    5%  1 stage",
    ]


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of three stages, two of which can run side by side; what each writes says when it ran."""
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith(("DVC_", "GIT_"))]:
        monkeypatch.delenv(variable)
    for kind in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE"):
        monkeypatch.setenv(f"DVC_{kind}_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    Path("work.py").write_text(
        "import sys, time; began = time.time(); time.sleep(2); open(sys.argv[1], 'w').write(f'{began} {time.time()}')"
    )
    lines = ["stages:"]
    for name in ("one", "two"):
        lines += [f"  {name}:", f"    cmd: python work.py {name}", "    deps: [seed]", f"    outs: [{name}]"]
    lines += ["  both:", "    cmd: cat one two > both", "    deps: [one, two]", "    outs: [both]"]
    Path("dvc.yaml").write_text("\n".join(lines) + "\n")
    Path("seed").write_text("0")
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run(["dvc", "init", "--quiet"], check=True)
    return tmp_path


def repro(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "stages.repro", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_stages_run_side_by_side_and_dvc_has_the_last_word(pipeline: Path) -> None:
    code, said = repro("both", "--jobs", "2")
    assert code == 0, said
    (began_one, ended_one), (began_two, ended_two) = (
        map(float, Path(name).read_text().split()) for name in ("one", "two")
    )
    assert max(began_one, began_two) < min(ended_one, ended_two)
    assert Path("both").read_text() == Path("one").read_text() + Path("two").read_text()
    assert said.count("Running stage") == 3
    assert re.search(r"0\.1 minutes of stages in 0\.\d minutes:\n.* min .*%  1 stage\n", said)
    code, said = repro("both", "--jobs", "2")
    assert code == 0
    assert "up to date" in said
    assert "Running stage" not in said


def test_a_stage_that_fails_stops_what_depends_on_it(pipeline: Path) -> None:
    text = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(text.replace("python work.py one", "exit 3"))
    code, said = repro("both", "--jobs", "2", "--keep-going")
    assert code != 0
    assert said.count("failed to reproduce 'one'") == 1
    assert not Path("both").exists()
    assert Path("two").exists()
    Path("dvc.yaml").write_text(text)
    assert repro("both", "--jobs", "2")[0] == 0
    assert Path("both").exists()


def test_what_failed_is_named_last(pipeline: Path) -> None:
    text = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(text.replace("python work.py one", "exit 3"))
    code, said = repro("both", "--jobs", "2")
    assert code == 1
    assert said.strip().splitlines()[-1].startswith("error: not done: one; see above")


def test_an_unknown_target_is_one_line(pipeline: Path) -> None:
    code, said = repro("nope")
    assert code == 1
    [line] = said.strip().splitlines()
    assert line.startswith("error: nope: no such stage")


def begun(count: int, *words: str) -> "subprocess.Popen[str]":
    """A stages.repro in a process group of its own, so many stages of which have begun."""
    command = [sys.executable, "-m", "stages.repro", *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while len(list(Path().glob("*.begun"))) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)  # until dvc waits for the stage
    return process


@pytest.mark.parametrize(
    ("number", "status", "count", "words"),
    [
        (signal.SIGINT, 130, 2, ["--jobs", "2"]),
        (signal.SIGTERM, 143, 2, ["--jobs", "2"]),
        (signal.SIGINT, 130, 1, ["--jobs", "1"]),
        (signal.SIGTERM, 143, 1, ["--jobs", "1"]),
        (signal.SIGINT, 130, 1, ["--jobs", "1", "--keep-going"]),
    ],
)
def test_a_signal_reaches_each_stage_once_and_is_answered_when_they_have_ended(
    number: signal.Signals, status: int, count: int, words: list[str], pipeline: Path
) -> None:
    """SIGINT as a terminal sends it, to the whole group; SIGTERM as `kill` does, to the process."""
    Path("work.py").write_text(SLOW)
    process = begun(count, "both", *words)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    code = process.wait(60)
    assert [path.read_text() for path in Path().glob("*.heard")] == ["1 time(s)"] * count
    assert len(list(Path().glob("*.begun"))) == count
    assert code == status
    said, _ = process.communicate(timeout=60)
    assert said.splitlines()[-1] == "interrupted; nothing half-written is left, run it again to go on"
    for name in ("one", "two"):
        Path(f"{name}.heard").touch()
    code, said = repro("both", "--jobs", "1")
    assert code == 0, said
    assert Path("both").read_text() == "onetwo"


def test_a_second_signal_ends_a_stage_that_does_not(pipeline: Path) -> None:
    Path("work.py").write_text(SLOW.replace("while not heard and", "while"))
    process = begun(1, "one", "--jobs", "1")
    process.terminate()
    process.terminate()  # an echo, as `make` and `timeout` make one
    time.sleep(2)
    assert process.poll() is None
    process.terminate()
    said, _ = process.communicate(timeout=60)  # to the end of what the stage could say
    assert process.returncode == 143, said
    assert not list(Path().glob("*.heard"))


def test_a_lock_file_that_dvc_left_half_written_is_made_again(pipeline: Path) -> None:
    Path(".dvc/tmp/rwlock").write_text("")
    code, said = repro("one")
    assert code == 0, said
    assert Path("one").exists()


def test_without_dvc_on_the_path_it_is_one_line(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(pipeline))
    assert repro("one") == (1, "error: dvc: not on the PATH; source .venv/bin/activate\n")


def test_another_dvc_at_work_is_named(pipeline: Path) -> None:
    held = {"write": {str(pipeline / "one"): {"pid": os.getpid(), "cmd": "dvc repro one"}}, "read": {}}
    Path(".dvc/tmp/rwlock").write_text(json.dumps(held))
    code, said = repro("one")
    assert code == 1
    [line] = said.splitlines()
    assert f"is busy, it is being blocked by: (PID {os.getpid()}): dvc repro one; another dvc is at work" in line
    assert line.endswith(": wait for it or stop it")


@pytest.mark.parametrize("words", [[], ["--jobs", "2"]])
def test_a_mistake_in_params_is_said_before_any_stage_runs(words: list[str], pipeline: Path) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("threads: 1", "threads: none", 1))
    code, said = repro("both", *words)
    assert code == 1
    [line] = said.splitlines()
    assert line.startswith("error: params.yaml: threads: 'none'")
    assert not Path("one").exists()
