"""Comparisons: what is refused, what counts as a repetition, and when a difference exceeds the spread."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML
from scipy import special

from genlib import comparison, experiments
from genlib.comparison import Result, Row
from genlib.errors import GenlibError
from genlib.presentation.comparisons import read_comparisons
from stages import compare

CARD = {"features": {"name": "net", "sha256": "aa"}, "images": {"dataset": "digits", "crop": None}, "samples": 1000}


def evaluation(run: str, metrics: Mapping[str, Any], **card: Any) -> dict[str, Any]:
    return {
        "run": run,
        "metrics": dict(metrics),
        "card": {**CARD, "seed": 0, **card},
        "samples": {"fid": {"mean": 1.0, "std": 0.25, "floor": 0.1, "ceiling": 9.0}},
    }


def result(name: str, seed: int, lr: float = 1e-4, **metrics: float) -> Result:
    card = {"features.sha256": "aa", "samples": 1000, "seed": seed}
    params, places = {"lr": lr, "evaluate.covered_share": 0.03}, {"lr": "gan.lr"}
    return Result(name, "digits-gan", seed, metrics or {"fid": 1.0}, {}, card, params, places)


def changed(one: Result, **card: Any) -> Result:
    return Result(**{**vars(one), "card": {**one.card, **card}})


def write(folder: Path, run: str, metrics: Mapping[str, Any], **card: Any) -> Path:
    path = folder / run / "evaluation.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(evaluation(run, metrics, **card)))
    return path


def welch_p(a: list[float], b: list[float]) -> float:
    """Two-sided p by Welch's formulas and the incomplete beta function."""
    u, v = (np.var(values, ddof=1) / len(values) for values in (a, b))
    t = (np.mean(b) - np.mean(a)) / math.sqrt(u + v)
    freedom = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1))
    return float(special.betainc(freedom / 2, 0.5, freedom / (freedom + t**2)))


def test_a_clear_difference_exceeds_the_spread_by_welchs_formulas() -> None:
    a, b = [10.0, 10.2, 9.9], [9.0, 9.4, 9.1, 9.2]
    difference, p, verdict = comparison.judge(a, b)
    assert difference == pytest.approx(9.175 - 10.1 + 0.2 / 3)
    assert p == pytest.approx(welch_p(a, b), rel=1e-9)
    assert verdict == comparison.EXCEEDS


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([10.0, 10.2, 9.9], [9.8, 10.3, 10.2], comparison.WITHIN),
        ([1.0, 2.0], [2.6, 3.6], comparison.WITHIN),  # 2.3 standard errors, but p is 0.15
        ([1.0, 3.0] * 200, [1.14, 3.14] * 200, comparison.WITHIN),  # p is 0.048, but 1.98 standard errors
        ([1.0, 3.0] * 200, [1.15, 3.15] * 200, comparison.EXCEEDS),
        ([10.0], [1.0], comparison.ONE_SEED),
        ([10.0, 10.1, 10.2], [1.0], comparison.ONE_SEED),
        ([10.0], [1.0, 1.1], comparison.ONE_SEED),
        ([0.1, 0.1, 0.1], [0.1, 0.1], comparison.SAME),
        ([0.1], [0.1], comparison.SAME),
        ([10.0, 10.0], [9.0, 9.0], comparison.NO_SPREAD),
    ],
)
def test_verdicts(a: list[float], b: list[float], verdict: str) -> None:
    assert comparison.judge(a, b)[2] == verdict


def test_the_spread_is_over_seeds_with_n_minus_1() -> None:
    assert comparison.mean_and_std([1.0, 2.0, 6.0]) == pytest.approx((3.0, math.sqrt(7.0)))
    assert comparison.mean_and_std([0.1, 0.1, 0.1]) == (0.1, 0.0)
    assert comparison.mean_and_std([5.0]) == (5.0, None)


def test_results_are_grouped_by_params_without_the_seed() -> None:
    results = [
        result("workspace", 0, fid=10.0),
        result("other", 0, lr=2e-4, fid=5.0),
        result("one", 1, fid=12.0),
        result("again", 2, lr=2e-4, fid=6.0),
    ]
    rows, notes = comparison.over_seeds(results)
    assert notes == []
    assert [(row.group, row.params, row.seeds, row.n) for row in rows] == [
        ("workspace", "gan.lr=0.0001", "0 1", 2),
        ("gan.lr=0.0002", "gan.lr=0.0002", "0 2", 2),
    ]
    assert (rows[0].mean, rows[0].std, rows[0].difference, rows[0].p) == (11.0, math.sqrt(2), None, None)
    assert (rows[1].mean, rows[1].difference, rows[1].spread) == (5.5, -5.5, "seeds")
    assert rows[1].p == pytest.approx(welch_p([10.0, 12.0], [5.0, 6.0]))


def test_the_same_result_found_twice_counts_once() -> None:
    results = [result("workspace", 0, fid=10.0), result("copy", 0, fid=10.0), result("one", 1, fid=12.0)]
    rows, notes = comparison.over_seeds(results)
    assert (rows[0].n, rows[0].seeds, notes) == (2, "0 1", [])


def test_a_seed_with_other_numbers_is_no_repetition() -> None:
    rows, notes = comparison.over_seeds([result("workspace", 0, fid=10.0), result("elsewhere", 0, fid=11.0)])
    assert (rows[0].n, rows[0].std) == (1, None)
    assert notes == ["elsewhere: left out: workspace has seed 0 already, with other numbers"]


def test_a_card_that_differs_is_refused_with_key_values_and_remedy() -> None:
    results = [result("workspace", 0), result("one", 1), changed(result("two", 2), **{"features.sha256": "bb"})]
    with pytest.raises(
        GenlibError, match=r"workspace and two .* features\.sha256 is 'aa' and 'bb'; evaluate .* --without two"
    ):
        comparison.over_seeds(results)


def test_seeds_and_what_only_one_kind_of_model_has_are_no_difference() -> None:
    comparison.refuse_different([result("a", 0), changed(result("b", 1), **{"likelihood.draws": 100})])


def test_a_difference_from_nothing_is_a_difference(tmp_path: Path) -> None:
    """A crop of null is a value: not cropped."""
    one = comparison.read(write(tmp_path, "one", {"fid": 1.0}), "one")
    other = comparison.read(write(tmp_path, "two", {"fid": 1.0}, images={"dataset": "digits", "crop": "178"}), "two")
    with pytest.raises(GenlibError, match=r"one and two .* images\.crop is None and '178'; .*name runs that agree"):
        comparison.side_by_side([one, other])


def test_runs_side_by_side_show_what_both_have(tmp_path: Path) -> None:
    vae = comparison.read(
        write(tmp_path, "a", {"fid": 3.0, "fid_std": 0.25, "elbo": 90.0}, likelihood={"draws": 9}), "a"
    )
    gan = comparison.read(write(tmp_path, "b", {"fid": 2.5, "fid_std": 0.25}, seed=3), "b")
    rows = comparison.side_by_side([vae, gan])
    assert [(row.group, row.metric, row.mean, row.std, row.n, row.seeds) for row in rows] == [
        ("a", "fid", 3.0, 0.25, 1, "0"),
        ("b", "fid", 2.5, 0.25, 1, "3"),
    ]
    # Sample sets ten standard deviations apart would be no repetition either.
    assert (rows[1].difference, rows[1].p, rows[1].verdict) == (-0.5, None, comparison.ONE_SEED)
    assert rows[0].spread == rows[1].spread == "sample sets"
    with pytest.raises(GenlibError, match=r"--metric elbo: .*choose of fid"):
        comparison.side_by_side([vae, gan], ["elbo"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"run": "b"}', "not the evaluation of a"),
        ('{"run": "a", "metrics": {}}', "card or metrics: missing, as in older versions"),
        ('{"run": "a", "metrics": {"fid": 1e999}, "card": {}}', "metrics.fid: inf is not a finite number"),
        ('{"run": "a", "metrics": {"fid": true}, "card": {}}', "metrics.fid: True is not a finite number"),
    ],
)
def test_an_odd_evaluation_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    with pytest.raises(GenlibError, match=rf"{said}; run dvc repro evaluate@a"):
        comparison.read(path, "a")


def rows() -> list[Row]:
    results = [
        result(f"{lr} {seed}", seed, lr, fid=seed + 1e4 * lr, kid=0.1 * seed) for lr in (1, 2) for seed in (0, 1)
    ]
    results.append(result("3", 0, 3, fid=1 / 3, kid=0.0))
    return comparison.over_seeds(results)[0]


def test_a_comparison_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    comparison.write_csv(tmp_path / "learning-rate.csv", rows())
    comparison.write_csv(tmp_path / "b.csv", rows()[:1])
    _, found = read_comparisons(tmp_path)
    assert found.rows == tuple(rows())
    assert (found.name, found.title, found.over_seeds, found.tested) == ("learning-rate", "Learning rate", True, True)
    assert not read_comparisons(tmp_path)[0].tested  # one group
    assert found.metrics == ("fid", "kid")
    assert found.groups == ("1 0", "gan.lr=2", "gan.lr=3")
    third = found.row("fid", "gan.lr=3")
    assert third is not None
    assert (third.mean, third.std, third.p) == (1 / 3, None, None)
    assert found.row("fid", "nothing") is None


def test_no_folder_of_comparisons_is_none(tmp_path: Path) -> None:
    assert read_comparisons(tmp_path / "nothing") == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kid,seeds,2", "kid,seeds,0", r"line 5: n: '0'"),
        (",10000.5,", ",nan,", r"line 2: mean: 'nan'"),
        (",10000.5,", ",,", r"line 2: mean: ''"),
        (",std,", ",sd,", r"columns .*'sd'.* are not run, "),
        (",,,\n", ",,,,extra\n", r"line 2: None: "),
        ("fid,seeds", "fid,machines", r"line 2: spread: 'machines'"),
        ("kid,seeds", "fid,seeds", r"metric fid, group 1 0: two rows"),
        ("kid,seeds", "kid,sample sets", r"spread: both"),
    ],
)
def test_a_spoilt_file_is_refused_by_name(old: str, new: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "spoilt.csv"
    comparison.write_csv(path, rows())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(GenlibError, match=rf"spoilt\.csv: {said}.*write it again"):
        read_comparisons(tmp_path)


Project = Callable[..., None]


@pytest.fixture
def project(alone: Path, raw: dict[str, Any]) -> Project:
    """A workspace with a result of digits-gan and the dvc.lock that belongs to it; arguments spoil the lock."""
    metrics = json.dumps(evaluation("digits-gan", {"fid": 2.0})).encode()
    path = Path("runs/demo/digits-gan/evaluation.json")
    path.parent.mkdir(parents=True)
    path.write_bytes(metrics)
    committed = Path("metrics/demo/digits-gan.json")
    committed.parent.mkdir(parents=True)
    committed.write_text('{"fid": 2.0, "fid_std": 0.25}')

    def make(trained_with: float = raw["gan"]["lr"], evaluated: str = "m1", measured: str | None = None) -> None:
        model = "runs/demo/digits-gan/model.safetensors"
        train = {
            "params": {"params.yaml": {"seed": raw["seed"], "gan": {**raw["gan"], "lr": trained_with}}},
            "deps": [{"path": "genlib/training.py", "md5": "c0dec0dec0de"}],
            "outs": [{"path": model, "md5": "m1"}],
        }
        evaluate = {
            "deps": [{"path": model, "md5": evaluated}],
            "outs": [
                {"path": str(path), "md5": measured or md5(metrics).hexdigest()},
                {"path": str(committed), "md5": md5(committed.read_bytes()).hexdigest()},
            ],
        }
        YAML().dump(raw, Path("params.yaml"))
        lock = {"stages": {"train@digits-gan": train, "evaluate@digits-gan": evaluate}}
        YAML().dump(lock, Path("dvc.lock"))

    return make


def test_the_params_of_a_run_are_its_own_and_the_code(project: Project, raw: dict[str, Any]) -> None:
    project()
    found = experiments.in_workspace("digits-gan")
    assert (found.name, found.run, found.seed, found.metrics) == ("workspace", "digits-gan", 0, {"fid": 2.0})
    assert found.params["lr"] == raw["gan"]["lr"]
    assert found.params["batch_size"] == raw["runs"]["digits-gan"]["batch_size"]
    assert found.params["data.digits.image_size"] == 28
    assert found.params["genlib/training.py"] == "c0dec0de"
    assert {"features.digits.lr", "sample.images", "evaluate.covered_share", "progress.frames"} <= found.params.keys()
    assert not {"seed", "data.mnist.image_size", "features.celeba.lr"} & found.params.keys()
    assert (found.places["lr"], found.places["batch_size"]) == ("gan.lr", "runs.digits-gan.batch_size")


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ({"trained_with": 9.0}, "gan in params.yaml is not what train@digits-gan was run with; run dvc repro"),
        ({"evaluated": "m0"}, "model.safetensors is not the one that evaluate@digits-gan was run with; run dvc repro"),
        ({"measured": "0"}, "evaluation.json: not the file that dvc.lock names .*; run dvc repro"),
    ],
)
def test_a_result_of_other_params_or_of_another_model_is_refused(
    spoilt: dict[str, Any], said: str, project: Project
) -> None:
    project(**spoilt)
    with pytest.raises(GenlibError, match=said):
        experiments.in_workspace("digits-gan")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: [", "not valid YAML: .*"),
        ("", "None is no mapping"),
        ("schema: '2.0'", "stages: None is no mapping"),
        ("stages:", "stages: None is no mapping"),
        ("stages: [1]", r"stages: \[1\] is no mapping"),
        ("stages:\n  evaluate@digits-gan:", "stages.evaluate@digits-gan: None is no mapping"),
        ("stages:\n  download@mnist:", "stages.download@mnist: None is no mapping"),
        ("stages:\n  a:\n    params: [seed]", r"stages.a.params: \['seed'\] names no values by file"),
        ("stages:\n  a:\n    params:\n      params.yaml:", "stages.a.params: .* names no values by file"),
        ("stages:\n  a:\n    deps:", "stages.a.deps: None is no list"),
        ("stages:\n  a:\n    outs: [b]", "stages.a.outs: 'b' has no path and md5"),
        ("stages:\n  a:\n    outs:\n    - path: b", "stages.a.outs: {'path': 'b'} has no path and md5"),
        ("stages:\n  a:\n    deps:\n    - md5: b", "stages.a.deps: {'md5': 'b'} has no path and md5"),
    ],
)
def test_a_lock_of_another_shape_is_refused_with_its_remedy(text: str, said: str, project: Project) -> None:
    project()
    Path("dvc.lock").write_text(text)
    with pytest.raises(GenlibError, match=rf"^dvc\.lock: {said}; git checkout dvc\.lock$"):
        experiments.in_workspace("digits-gan")
    with pytest.raises(GenlibError, match=rf"^its dvc\.lock: {said}; dvc exp remove odd-cat, then"):  # becomes a note
        experiments.made("odd-cat", "evaluate", "digits-gan", Path("params.yaml").read_text(), text)


@pytest.mark.parametrize("name", ["dvc.lock", "params.yaml"])
def test_a_lock_or_settings_in_another_encoding_are_refused(name: str, project: Project) -> None:
    project()
    Path(name).write_bytes(b"\xff\xfe")
    with pytest.raises(GenlibError, match=rf"^{name}: not UTF-8 .*; git checkout {name}$"):
        experiments.in_workspace("digits-gan")


def test_metrics_in_git_tell_of_a_run_that_is_not_here(project: Project) -> None:
    project()
    there = experiments.in_workspace("digits-gan")
    Path("runs/demo/digits-gan/evaluation.json").unlink()
    found = experiments.in_metrics("digits-gan")
    assert (found.seed, found.metrics, found.spreads, found.params) == (0, {"fid": 2.0}, {"fid": 0.25}, there.params)
    Path("metrics/demo/digits-gan.json").write_text('{"fid": 1.9, "fid_std": 0.25}')
    with pytest.raises(GenlibError, match=r"metrics/demo/digits-gan.json: not the file that dvc.lock names"):
        experiments.in_metrics("digits-gan")
    Path("metrics/demo/digits-gan.json").unlink()
    with pytest.raises(GenlibError, match=r"metrics/demo/digits-gan.json: no such file; run dvc repro"):
        experiments.in_metrics("digits-gan")


@pytest.mark.parametrize(
    ("runs", "options", "said"),
    [
        (["digits-gan"], {}, "digits-gan: name two different runs"),
        (["digits-gan", "digits-gan"], {}, "name two different runs"),
        (["digits-gan", "digits-vae"], {"experiments": True}, "--experiments: 2 runs are named; name one"),
        (["digits-gan", "digits-vea"], {}, "runs.digits-vea: no such entry, did you mean digits-vae"),
    ],
)
def test_a_command_that_cannot_be_meant_is_refused(
    runs: list[str], options: dict[str, Any], said: str, project: Project
) -> None:
    project()
    with pytest.raises(GenlibError, match=said):
        compare.main(runs, **options)


def test_tables_fit_on_a_terminal(capsys: pytest.CaptureFixture[str], project: Project) -> None:
    project()
    names = ["digits-gan", "digits-ae", "digits-vae", "faces-vae", "faces-gan"]
    for name in names[1:]:
        write(Path("runs/demo"), name, {"fid": 1234.5678, "kid": -1.234e-7})
    compare.main(names, csv=Path("comparisons/demo/all.csv"))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "1,235 \u00b1 0.25" in out
    assert all(name in out for name in names)
    (found,) = read_comparisons(Path("comparisons/demo"))
    assert found.groups == tuple(names)
    assert not found.over_seeds


TOOL = """
import json, pathlib, sys
from ruamel.yaml import YAML
raw = YAML(typ="safe").load(pathlib.Path("params.yaml"))
fid = 10 + 0.1 * raw["seed"] + 1e4 * raw["gan"]["lr"]
card = {"features": {"sha256": "aa"}, "seed": raw["seed"]}
path = pathlib.Path(sys.argv[1])
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps({"run": "digits-gan", "metrics": {"fid": fid}, "card": card}))
"""


def test_experiments_of_dvc_end_to_end(
    tmp_path: Path, raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two settings made by dvc exp run; the result of one experiment is gone from the cache."""
    folder, settings = tmp_path / "repository", tmp_path / "settings"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith(("DVC_", "GIT_"))]:
        monkeypatch.delenv(name)
    for kind in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE"):
        monkeypatch.setenv(f"DVC_{kind}_DIR", str(settings))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    for kind in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"GIT_CONFIG_{kind}", os.devnull)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "t")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "t@t")

    def call(*words: str) -> None:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout

    def dvc(*words: str) -> None:
        call(sys.executable, "-m", "dvc", *words)

    out = "runs/demo/digits-gan/evaluation.json"
    stage = {"cmd": f"{sys.executable} tool.py {out}", "params": ["seed", "gan"], "deps": ["tool.py"], "outs": [out]}
    YAML().dump({"stages": {"evaluate": {"foreach": {"digits-gan": None}, "do": stage}}}, Path("dvc.yaml"))
    raw["gan"]["lr"] = 1e-4
    YAML().dump(raw, Path("params.yaml"))
    Path("tool.py").write_text(TOOL)
    Path(".gitignore").write_text("/runs\n")
    call("git", "init", "--quiet")
    dvc("init", "--quiet")
    call("git", "add", ".")
    call("git", "commit", "--quiet", "--message", "all")
    for name, seed, lr in [("slow", 1, 1e-4), ("s1", 1, 2e-4), ("fast", 0, 2e-4)]:
        dvc("exp", "run", "--quiet", "--name", name, "-S", f"seed={seed}", "-S", f"gan.lr={lr}")

    compare.main(["digits-gan"], experiments=True, csv=Path("comparisons/demo/learning-rate.csv"))
    said = capsys.readouterr()
    (found,) = read_comparisons(Path("comparisons/demo"))
    # The workspace is the experiment run last: it counts once.
    assert [(row.group, row.seeds, row.verdict) for row in found.rows] == [
        ("workspace", "0 1", ""),
        ("gan.lr=0.0001", "1", comparison.ONE_SEED),
    ]
    assert [row.mean for row in found.rows] == pytest.approx([12.05, 11.1])
    assert "2: gan.lr=0.0001 (seed 1)" in said.out
    assert said.err == ""

    with pytest.raises(GenlibError, match=r"experiments on nothing: .*nothing"):
        experiments.in_experiments("digits-gan", "nothing")
    with pytest.raises(GenlibError, match=r"--without lost: HEAD has no such experiment; there are .*slow"):
        experiments.in_experiments("digits-gan", "HEAD", ["lost"])
    digest = md5(Path(out).read_bytes()).hexdigest()
    (Path(".dvc/cache/files/md5") / digest[:2] / digest[2:]).unlink()
    results, (note,) = experiments.in_experiments("digits-gan", "HEAD", ["s1"])
    assert [result.name for result in results] == ["slow"]
    assert re.match(rf"fast: left out: its evaluation\.json \({digest}\) is not in DVC's cache; .*dvc repro", note)
