"""Verification: what counts as the same, what as checked, how bands are measured, and what a person reads."""

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

from genlib import bands, experiments, params, verification
from genlib.bands import Band, Bands, Entry, Measured
from genlib.comparison import Result
from genlib.errors import GenlibError
from genlib.verification import EQUAL, NO_BAND, NOT_CHECKED, OTHER_PARAMS, OUT, WITHIN, Finding
from stages import verify

ROOT = Path(__file__).resolve().parent.parent
RUN = "demo/digits-gan"
METRICS = {"fid": 15.505797, "fid_std": 1.15974, "classes_covered": 10.0}
PROVENANCE: dict[str, Any] = {
    "commit": "c0de", "date": "2026-11-22T18:00:42+00:00", "hardware": "2 CPU cores", "seconds": 28.0,
    "processor": "AuthenticAMD family 25 model 1, AVX2", "device": "cpu", "threads": 1, "torch": "2.15.0", "cuda": None,
}  # fmt: skip
AGAIN: dict[str, Any] = {"date": "2026-12-24T18:00:00+00:00", "seconds": 31.5}
ELSEWHERE: dict[str, Any] = {**AGAIN, "processor": "GenuineIntel family 6 model 85, AVX512"}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def metrics(run: str = RUN, **changes: Any) -> None:
    """Write a metrics file as it was not measured."""
    write(
        Path(f"metrics/{run}.json"), {name: value for name, value in (METRICS | changes).items() if value is not None}
    )


def measured(run: str = RUN, **changes: Any) -> None:
    """Write metrics as evaluate would."""
    metrics(run, **changes)
    evaluation = {
        "run": run.split("/")[1],
        "metrics": json.loads(Path(f"metrics/{run}.json").read_text()),
        "card": {"features": {"sha256": "feedbeefcafe"}},
        "dataset": {
            "dataset": "digits", "edition": None, "origin": {"files": [{"source": "drawn"}]},
            "sha256": {"train.npy": "aaaaaaaaaaaa", "test.npy": "bbbbbbbbbbbb"},
        },
    }  # fmt: skip
    write(Path(f"runs/{run}/evaluation.json"), evaluation)


def trained(run: str = RUN, without: Sequence[str] = (), **changes: Any) -> None:
    """Write the provenance of a training."""
    told = {key: value for key, value in (PROVENANCE | changes).items() if key not in without}
    write(Path(f"runs/{run}/provenance.json"), told)


def git(*words: str) -> None:
    done = subprocess.run(["git", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout


def commit() -> None:
    git("add", ".")
    git("commit", "--quiet", "--allow-empty", "--message", "all")


def set_bands(limits: Mapping[str, tuple[float, float]], digest: str | None = None) -> None:
    """Into bands.json, for the settings that are in params.yaml, unless another digest is given."""
    known, settings = bands.load(), verification.load_settings()
    digest = digest or bands.settings_digest(settings.checked, settings.raw, "digits-gan")
    found = {metric: Band(low=low, high=high, n=5) for metric, (low, high) in limits.items()}
    entry = Entry(reference=known.of(RUN).reference, measured=Measured(params=digest, results=("one",), bands=found))
    bands.write(Bands(runs={**known.runs, RUN: entry}))


def change_params(raw: dict[str, Any]) -> None:
    YAML().dump(raw, Path("params.yaml"))


def findings(rev: str = "HEAD") -> dict[str, Finding]:
    return {finding.run: finding for finding in verification.verify(verification.revision(rev))}


def verdicts(run: str = RUN) -> dict[str, str]:
    return {row.metric: row.verdict for row in findings()[run].rows}


def said(everything: bool = False) -> str:
    reference = verification.revision("HEAD")
    return verification.report(verification.verify(reference), reference, everything)


@pytest.fixture
def empty(alone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of git without commits."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for kind in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"GIT_CONFIG_{kind}", os.devnull)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "t")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "t@t")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(alone.parent))
    git("init", "--quiet")
    return alone


@pytest.fixture
def author(empty: Path, raw: dict[str, Any]) -> Path:
    """The author's folder: digits-gan trained, recorded and committed, and the metrics of a run that is not here."""
    change_params(raw)
    Path(".gitignore").write_text("/runs/\n")
    metrics("presentation/mnist-gan")
    measured()
    trained()
    verify.main(record=True)
    commit()
    return empty


def test_a_repetition_on_the_same_machine_is_equal(author: Path) -> None:
    trained(**AGAIN)
    assert verdicts() == dict.fromkeys(METRICS, EQUAL)
    text = said()
    assert f"{RUN}: 3 of 3 equal" in text
    assert "environment: the same (processor, device, threads, processes, torch, cuda, data, measuring network)" in text
    assert "passed against HEAD" in text
    assert "3 metrics equal, 1 run not checked" in text


def test_on_the_same_machine_equality_is_promised_whatever_the_band(author: Path) -> None:
    set_bands({"fid": (15.0, 16.0)})
    commit()
    trained(**AGAIN)
    measured(fid=15.505798)
    assert verdicts() == {"fid": OUT, "fid_std": EQUAL, "classes_covered": EQUAL}
    with pytest.raises(typer.Exit) as ended:
        verify.main()
    assert ended.value.exit_code == 1


@pytest.mark.parametrize(
    ("fid", "verdict"),
    [(15.505797, EQUAL), (15.0, WITHIN), (15.6, WITHIN), (16.0, WITHIN), (14.999999, OUT), (16.000001, OUT)],
)
def test_on_another_machine_the_band_holds_ends_included(fid: float, verdict: str, author: Path) -> None:
    set_bands({"fid": (15.0, 16.0)})
    commit()
    trained(**ELSEWHERE)
    measured(fid=fid)
    assert verdicts()["fid"] == verdict
    assert verification.passed(list(findings().values())) == (verdict != OUT)


@pytest.mark.parametrize(
    "changes",
    [{"processor": "other"}, {"device": "cuda"}, {"threads": 2}, {"torch": "2.15.0+cu132"}, {"cuda": "13.2"}],
)
def test_another_machine_is_one_that_differs_in_any_of_these(changes: dict[str, Any], author: Path) -> None:
    trained(**AGAIN, **changes)
    measured(fid=15.6)
    assert verdicts()["fid"] == NO_BAND
    (key, value), *_ = changes.items()
    was = "none" if PROVENANCE[key] is None else PROVENANCE[key]
    assert f"  {key}: here {value}; reference {was}\n" in said()


@pytest.mark.parametrize("missing", ["processor", "cuda"])
def test_what_older_provenance_does_not_say_is_not_the_same(missing: str, author: Path) -> None:
    trained(without=[missing], **AGAIN)
    measured(fid=15.6)
    assert verdicts()["fid"] == NO_BAND
    assert f"{missing}: here unknown; reference " in said()


def test_unknown_on_both_sides_is_not_the_same_either(author: Path) -> None:
    trained(without=["processor"])
    verify.main(record=True)
    commit()
    trained(without=["processor"], **AGAIN)
    measured(fid=15.6)
    assert verdicts()["fid"] == NO_BAND


def test_a_difference_without_a_band_is_counted_and_not_called_ok(author: Path) -> None:
    trained(**ELSEWHERE)
    measured(fid=99.0)
    verify.main()
    text = " ".join(said().split())
    assert "2 metrics equal, 1 metric changed with no band to judge by" in text
    assert "within" not in text


def test_bands_for_other_settings_are_none(author: Path) -> None:
    set_bands({"fid": (15.0, 16.0)}, digest="another")
    commit()
    trained(**ELSEWHERE)
    measured(fid=15.6)
    assert verdicts()["fid"] == NO_BAND


def test_a_missing_metric_is_out_and_an_additional_one_is_not_checked(author: Path) -> None:
    set_bands({"fid": (15.0, 16.0), "kid": (0.0, 1.0)})
    commit()
    trained(**ELSEWHERE)
    measured(fid=None, kid=0.5)
    assert verdicts() == {"fid": OUT, "fid_std": EQUAL, "classes_covered": EQUAL, "kid": NOT_CHECKED}


def test_missing_metrics_are_out(author: Path) -> None:
    Path(f"metrics/{RUN}.json").unlink()
    assert verdicts() == dict.fromkeys(METRICS, OUT)
    assert f"metrics/{RUN}.json: no such file here; run dvc repro evaluate@digits-gan" in said().replace("\n    ", " ")


@pytest.mark.parametrize("where", ["here", "same machine", "elsewhere", "nothing trained", "nothing at all"])
@pytest.mark.parametrize("fid", [15.6, math.nan])
def test_a_metric_changed_by_hand_is_out_everywhere(fid: float, where: str, author: Path) -> None:
    set_bands({"fid": (15.0, 16.0)})
    commit()
    if where == "nothing at all":
        Path(f"runs/{RUN}/evaluation.json").unlink()
    if where.startswith("nothing"):
        Path(f"runs/{RUN}/provenance.json").unlink()
    else:
        trained(**{"here": {}, "same machine": AGAIN, "elsewhere": ELSEWHERE}[where])
    metrics(fid=fid)
    assert verdicts()["fid"] == OUT
    text = " ".join(said().split())
    assert "FAILED against HEAD" in text
    by_hand = f"changed after evaluate wrote it, by hand or by git: fid {fid}, not 15.505797 as in its evaluation.json"
    assert (by_hand in text) == (where != "nothing at all")
    with pytest.raises(typer.Exit):
        verify.main()


def test_committed_metrics_put_back_after_another_result_are_out(author: Path) -> None:
    """As git checkout metrics would: the file agrees with the commit, and not with what was measured."""
    trained(**ELSEWHERE)
    measured(fid=99.0)
    metrics()
    assert verdicts() == {"fid": OUT, "fid_std": EQUAL, "classes_covered": EQUAL}


def test_what_was_not_trained_here_is_not_checked(author: Path) -> None:
    found = findings()["presentation/mnist-gan"]
    assert (found.verdict, found.rows) == (NOT_CHECKED, ())
    assert "presentation/mnist-gan: not checked: no provenance.json in runs/presentation/mnist-gan" in said()


def test_a_restored_training_is_not_checked_and_nothing_is_called_ok(author: Path) -> None:
    found = findings()[RUN]
    assert (found.verdict, found.reason) == (NOT_CHECKED, "the model here is the reference's own, not trained again")
    verify.main()
    text = said(everything=True)
    assert "nothing was checked: " in text
    assert "passed" not in text
    assert EQUAL not in text


@pytest.mark.parametrize("key", ["commit", "date", "seconds"])
def test_a_training_that_differs_in_one_of_these_is_another(key: str, author: Path) -> None:
    trained(**{key: AGAIN.get(key, "beef")})
    assert set(verdicts().values()) == {EQUAL}


def test_a_model_that_was_not_evaluated_here_is_not_checked(author: Path) -> None:
    trained(**AGAIN)
    Path(f"runs/{RUN}/evaluation.json").unlink()
    assert findings()[RUN].reason == f"no evaluation.json in runs/{RUN}"


def test_a_restored_training_with_other_numbers_is_out(author: Path) -> None:
    measured(fid=15.6)
    assert verdicts() == {"fid": OUT, "fid_std": NOT_CHECKED, "classes_covered": NOT_CHECKED}
    assert "not repeated here: the model here is the reference's own" in " ".join(said().split())


def test_equal_numbers_from_an_unknown_training_are_not_checked(author: Path) -> None:
    """The reference is of other metrics: nothing says that these were not made by the author, in this folder."""
    measured(fid=14.0)
    commit()
    assert findings()[RUN].reason == "bands.json at HEAD does not say which training its metrics are from"
    measured(fid=14.5)
    assert verdicts() == {"fid": NO_BAND, "fid_std": EQUAL, "classes_covered": EQUAL}
    assert "  torch: here 2.15.0; reference unknown\n" in said()


def test_a_commit_older_than_bands_json_can_be_verified_against(author: Path) -> None:
    git("rm", "--quiet", "bands.json")
    commit()
    trained(**ELSEWHERE)
    measured(fid=99.0)
    assert verdicts()["fid"] == NO_BAND


def test_bands_are_those_of_the_commit(author: Path) -> None:
    trained(**ELSEWHERE)
    measured(fid=15.6)
    set_bands({"fid": (15.0, 16.0)})
    assert verdicts()["fid"] == NO_BAND
    commit()
    assert {row.verdict for row in findings("HEAD~1")[RUN].rows} == {NO_BAND, EQUAL}
    assert findings()[RUN].verdict == NOT_CHECKED  # the commit has the new metrics, of no recorded training


def test_other_params_are_named_and_fail(author: Path, raw: dict[str, Any]) -> None:
    raw["gan"]["lr"] = 9e-4
    raw["runs"]["digits-gan"]["epochs"] = 1
    raw["evaluate"]["sets"] = 2
    raw["seed"] = 3
    change_params(raw)
    found = findings()[RUN]
    assert found.verdict == OTHER_PARAMS
    places = {"gan.lr", "runs.digits-gan.epochs", "evaluate.sets", "seed"}
    assert set(found.reason.removeprefix("not comparable, params differ: ").split(", ")) == places
    absent = findings()["presentation/mnist-gan"]
    assert absent.verdict == NOT_CHECKED
    assert absent.reason.startswith(
        "no provenance.json in runs/presentation/mnist-gan; not comparable, params differ: "
    )
    assert "1 run with other params" in said()
    with pytest.raises(typer.Exit):
        verify.main()
    metrics(fid=1.0)
    assert verdicts() == {"fid": OUT}


def test_params_of_other_runs_and_threads_are_no_other_params(author: Path, raw: dict[str, Any]) -> None:
    raw["vae"]["lr"] = 9e-4
    raw["threads"] += 1
    change_params(raw)
    trained(**AGAIN, threads=raw["threads"])
    assert set(verdicts().values()) == {EQUAL}


def test_runs_that_only_one_side_has(author: Path, raw: dict[str, Any]) -> None:
    own = raw["runs"].pop("digits-gan")
    raw["runs"]["mine"] = own
    change_params(raw)
    measured("demo/mine")
    trained("demo/mine")
    found = findings()
    assert (found["demo/mine"].verdict, found["demo/mine"].reason) == (NOT_CHECKED, "HEAD has no such run")
    assert (found[RUN].verdict, found[RUN].reason) == (
        OTHER_PARAMS,
        "not comparable, params differ: runs.digits-gan, which is gone",
    )


def test_a_project_in_a_folder_of_a_repository(
    empty: Path, raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty / "project").mkdir()
    monkeypatch.chdir(empty / "project")
    change_params(raw)
    measured()
    trained()
    verify.main(record=True)
    commit()
    trained(**AGAIN)
    assert set(verdicts().values()) == {EQUAL}


def test_no_commit_no_metrics_no_repository(empty: Path, raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    change_params(raw)
    commit()
    with pytest.raises(GenlibError, match=r"--rev nothing: git knows no such commit; .*git log"):
        verify.main(rev="nothing")
    with pytest.raises(GenlibError, match=r"HEAD: no metrics/<lane>/<run>\.json at that commit; .*--rev"):
        verify.main()
    (empty / "elsewhere").mkdir()
    (empty / ".git").rename(empty / "elsewhere" / "moved")
    with pytest.raises(GenlibError, match=r"not in a git repository; clone the project"):
        verify.main()
    monkeypatch.setenv("PATH", str(empty))
    with pytest.raises(GenlibError, match=r"git: not found; install it"):
        verify.main()


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        (f"metrics/{RUN}.json", "{", rf"HEAD: metrics/{RUN}\.json: not valid JSON"),
        (f"metrics/{RUN}.json", "[1]", rf"HEAD: metrics/{RUN}\.json: not a mapping"),
        (f"metrics/{RUN}.json", '{"fid": "1"}', rf"HEAD: metrics/{RUN}\.json: fid: '1' is no number"),
        (f"metrics/{RUN}.json", '{"fid": NaN}', rf"HEAD: metrics/{RUN}\.json: fid: nan is no number"),
        ("params.yaml", "seed: 0", r"HEAD: params\.yaml: threads: missing|HEAD: params\.yaml: data: missing"),
        ("params.yaml", "seed: [", r"HEAD: params\.yaml: not valid YAML"),
        ("bands.json", "{", r"HEAD: bands\.json: content: .*; name another commit: --rev"),
        (
            "bands.json",
            '{"about": [], "runs": {"demo/a": {"measured": {"params": "", "results": [], '
            '"bands": {"fid": {"low": 0, "high": 1, "n": 2}}}}}}',
            r"HEAD: bands\.json: runs\.demo/a\.measured\.bands\.fid\.n: 2: ",
        ),
    ],
)
def test_a_commit_that_cannot_be_read_is_refused_by_name(path: str, text: str, message: str, author: Path) -> None:
    Path(path).write_text(text)
    commit()
    with pytest.raises(GenlibError, match=message):
        verification.revision("HEAD")


def test_numbers_that_look_the_same_are_shown_to_the_last_digit(author: Path) -> None:
    trained(**AGAIN)
    measured(fid=15.505798)
    assert [line for line in said().splitlines() if line.startswith("  fid")] == [
        "  fid              15.505797  15.505798  equality  out",
        "  fid_std            1.15974    1.15974  equality  equal",
    ]


def test_the_table_fits_on_a_terminal(author: Path, raw: dict[str, Any]) -> None:
    set_bands({"fid": (-7145.362226, -7000.123456), "classes_covered": (10.0, 10.0)})
    commit()
    trained(**ELSEWHERE)
    measured(fid=-7100.0)
    metrics(fid=-7100.0, fid_std=0.123456789)
    raw["runs"]["mnist-gan"] |= dict.fromkeys(("dropout", "leaky_slope", "real_label", "beta1", "lr"), 0.625)
    change_params(raw)
    text = said()
    assert max(map(len, text.splitlines())) <= 100
    assert "[-7145.36, -7000.12]" in text
    assert "runs.mnist-gan.beta1" in text
    assert len(said(everything=True).splitlines()) == len(text.splitlines())  # no run is equal in all
    measured(fid=METRICS["fid"])
    assert len(said(everything=True).splitlines()) == len(said().splitlines()) + len(METRICS) + 1 - said().count(
        "metric  "
    )


def test_as_a_command_it_ends_with_1_and_a_table_and_imports_no_torch(author: Path) -> None:
    program = (
        "import atexit, sys; "
        "heavy = {'torch', 'torchvision', 'mlflow', 'dvc', 'scipy'}; "
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)))); "
        "from stages.command import run; from stages.verify import main; run(main)"
    )

    def call() -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
        )

    trained(**AGAIN)
    fine = call()
    assert (fine.returncode, fine.stderr) == (0, "")
    assert fine.stdout.endswith("[]\n")
    metrics(fid=1.0)
    bad = call()
    assert (bad.returncode, bad.stderr) == (1, "")
    assert ["fid", "15.5058", "1", "equality", "out"] in [line.split() for line in bad.stdout.splitlines()]


@pytest.mark.parametrize(
    ("values", "t", "std"),
    [
        ([1.0, 2.0, 3.0], 9.924843, 1.0),
        ([2.0, 4.0, 4.0, 6.0], 5.840909, math.sqrt(8 / 3)),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 8.610302, math.sqrt(2.5)),
    ],
)
def test_a_band_is_the_prediction_interval_of_the_tables(values: list[float], t: float, std: float) -> None:
    band = bands.band_of(values)
    assert band is not None
    mean, reach = sum(values) / len(values), t * std * math.sqrt(1 + 1 / len(values)) + 1e-4 * max(values)
    assert (band.low, band.high) == pytest.approx((mean - reach, mean + reach), rel=1e-6)
    assert band.n == len(values)


def test_equal_values_are_a_narrow_band_and_two_values_none() -> None:
    band = bands.band_of([-0.1, -0.1, -0.1])
    assert band is not None
    assert (band.low, band.high) == pytest.approx((-0.10001, -0.09999), rel=1e-9)
    assert bands.band_of([1.0, 2.0]) is None


@pytest.mark.parametrize(("values", "count"), [([1.0, 2.0, 4.0], 0.0), ([20.0, 19.0, 20.0], 1.0), ([3.0] * 4, 0.0)])
def test_a_band_tells_the_values_behind_it(values: list[float], count: float) -> None:
    band = bands.band_of(values, count)
    assert band is not None
    mean, std = bands.values_behind(band, count)
    assert mean == pytest.approx(statistics.mean(values))
    assert std == pytest.approx(statistics.stdev(values), abs=1e-4 * mean)


@pytest.mark.parametrize(
    ("metric", "values", "inside", "outside"),
    [
        ("active_units", [20.0, 20.0, 20.0], 19.0, 18.0),
        ("classes_covered", [10.0, 10.0, 10.0], 9.8, 9.6),
        ("copied_share", [0.0, 0.0, 0.0], 0.0005, 0.001),
    ],
)
def test_counts_that_agree_may_differ_by_one_elsewhere(
    metric: str, values: list[float], inside: float, outside: float
) -> None:
    band = bands.band_of(values, bands.COUNTED[metric])
    assert band is not None
    assert band.low <= inside <= band.high
    assert not band.low <= outside <= band.high


def result(
    name: str, seed: int = 0, threads: int = 1, lr: float = 1e-4, network: str = "aa", images: str = "b", **told: float
) -> Result:
    card = {"features.sha256": network, "samples": int(told.pop("samples", 1000)), "seed": seed}
    card |= {"images.train_sha256": 12 * "a", "images.test_sha256": 12 * images}
    std = told.pop("std", 0.5)
    return Result(name, "digits-gan", seed, told, {"fid": std}, card, {"threads": threads, "lr": lr}, {})


def with_experiments(monkeypatch: pytest.MonkeyPatch, *results: Result, run: str = "digits-gan") -> None:
    """The first is the workspace's; other runs have none."""

    def first(name: str) -> Result:
        if name != run:
            raise GenlibError(f"evaluate@{name} has not been run")
        return results[0]

    monkeypatch.setattr(bands, "in_workspace", first)
    monkeypatch.setattr(bands, "in_metrics", first)
    monkeypatch.setattr(bands, "in_experiments", lambda name, rev: (list(results[1:]), []))


@pytest.mark.usefixtures("author")
def test_repetitions_differ_in_seed_or_threads_only(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [
        result("workspace", fid=10.0),
        result("again", fid=10.0),
        result("processor", fid=10.5),
        result("s1", seed=1, fid=11.0),
        result("t2", threads=2, network="bb", fid=10.0),
        result("lr", seed=2, lr=2e-4, fid=12.0),
        result("fewer", seed=3, samples=500, fid=13.0),
    ]
    with_experiments(monkeypatch, *results)
    found, notes = bands.repetitions(RUN, "HEAD", None)
    assert [one.name for one in found] == ["workspace", "processor", "s1", "t2"]
    assert notes == [
        "lr: left out: lr is 0.0002, and 0.0001 here",
        "fewer: left out: samples is 500, and 1000 here",
    ]


@pytest.mark.usefixtures("author")
def test_without_the_runs_outputs_its_committed_metrics_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the images are compared with those that bands.json names: metrics have no card."""
    committed = replace(result("workspace", fid=10.0), card={"seed": 0})
    others = [result("s1", seed=1, fid=11.0), result("other", seed=2, images="c", fid=12.0)]
    with_experiments(monkeypatch, committed, *others)
    Path(f"runs/{RUN}/evaluation.json").unlink()
    reference = bands.load().of(RUN).reference
    found, notes = bands.repetitions(RUN, "HEAD", reference)
    assert [one.name for one in found] == ["workspace", "s1"]
    images = "train aaaaaaaa, test"
    assert notes == [
        f"other: left out: its images are {images} cccccccc, and digits, drawn, {images} bbbbbbbb here",
    ]
    untold = f"workspace: left out: metrics/{RUN}.json: bands.json does not say which training it is from"
    for unknown in (None, replaced(reference)):
        found, notes = bands.repetitions(RUN, "HEAD", unknown)
        assert found == []
        assert notes == [f"{untold}, and runs/{RUN} is not here"]


def replaced(reference: bands.Reference | None) -> bands.Reference:
    assert reference is not None
    return reference.model_copy(update={"metrics_sha256": "0"})


def test_the_threads_are_among_a_results_params(raw: dict[str, Any]) -> None:
    raw["threads"] = 7
    used, _ = experiments.used_params(params.parse(raw), raw, "digits-gan")
    assert used["threads"] == 7


def test_bands_are_measured_of_each_metric_in_git(author: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_experiments(
        monkeypatch,
        result("workspace", fid=1.0, std=0.5, classes_covered=10.0, diversity=1.0),
        result("s1", seed=1, fid=2.0, std=1.0, classes_covered=10.0, diversity=1.0),
        result("t2", threads=2, fid=3.0, std=1.5, diversity=1.0),
    )
    verify.main(measure=True)
    entry = bands.load().of(RUN)
    assert entry.reference is not None
    assert entry.measured is not None
    assert entry.measured.results == (
        "workspace: seed 0, threads 1",
        "s1: seed 1, threads 1",
        "t2: seed 0, threads 2",
    )
    assert entry.measured.bands.keys() == {"fid", "fid_std"}  # classes_covered has two values only
    reach = 9.924843 * math.sqrt(4 / 3) + 3e-4  # with 1e-4 of the largest value
    assert entry.measured.bands["fid"].high == pytest.approx(2 + reach, rel=1e-6)
    assert entry.measured.bands["fid_std"].high == pytest.approx(1 + reach / 2, rel=1e-6)
    commit()
    trained(**ELSEWHERE)
    measured(fid=2 + reach * 0.999)
    assert verdicts() == {"fid": WITHIN, "fid_std": EQUAL, "classes_covered": EQUAL}


def test_bands_stay_without_new_results_until_the_settings_change(
    author: Path, raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_bands({"fid": (15.0, 16.0)})
    before = bands.load().of(RUN)
    with_experiments(monkeypatch, result("workspace", fid=1.0), result("s1", seed=1, fid=2.0))
    raw["vae"]["lr"] = 9e-4
    change_params(raw)
    verify.main(measure=True)
    assert bands.load().of(RUN) == before
    assert f"{RUN}: bands as they were: 2 of 3 results" in capsys.readouterr().out
    raw["threads"] += 1
    change_params(raw)
    verify.main(measure=True)
    assert bands.load().of(RUN) == Entry(reference=before.reference, measured=None)
    out = capsys.readouterr().out
    assert f"{RUN}: bands dropped: they are for other settings" in out
    assert "workspace: left out: evaluate@digits-vae has not been run" in out


def test_recording_keeps_what_is_elsewhere_and_drops_what_is_of_other_metrics(author: Path) -> None:
    set_bands({"fid": (15.0, 16.0)})
    before = bands.load().of(RUN)
    Path(f"runs/{RUN}/provenance.json").unlink()
    verify.main(record=True)
    assert bands.load().of(RUN) == before
    metrics(fid=15.6)
    verify.main(record=True)
    assert bands.load().of(RUN) == Entry(reference=None, measured=before.measured)


def test_recorded_is_where_and_when_the_training_was(author: Path) -> None:
    reference = bands.load().of(RUN).reference
    assert reference is not None
    assert (reference.commit, reference.date, reference.seconds) == ("c0de", PROVENANCE["date"], 28.0)
    assert reference.environment == {
        "processor": "AuthenticAMD family 25 model 1, AVX2", "device": "cpu", "threads": "1", "processes": "1",
        "torch": "2.15.0", "cuda": "none", "data": "digits, drawn, train aaaaaaaa, test bbbbbbbb",
        "measuring network": "feedbeef",
    }  # fmt: skip


def test_metrics_changed_by_hand_are_not_recorded(author: Path) -> None:
    metrics(fid=1.0)
    before = Path("bands.json").read_bytes()
    with pytest.raises(
        GenlibError, match=rf"metrics/{RUN}\.json: not the metrics of .*run dvc repro evaluate@digits-gan"
    ):
        verify.main(record=True)
    assert Path("bands.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"date": None}, r"provenance\.json: date: None: .*delete it and run dvc repro"),
        ({"seconds": "long"}, r"provenance\.json: seconds: 'long': "),
    ],
)
def test_an_odd_provenance_is_refused(changes: dict[str, Any], message: str, author: Path) -> None:
    trained(**changes)
    with pytest.raises(GenlibError, match=message):
        verify.main(record=True)


def test_an_evaluation_of_another_shape_is_refused(author: Path) -> None:
    trained(**AGAIN)
    write(Path(f"runs/{RUN}/evaluation.json"), {"metrics": METRICS})
    with pytest.raises(GenlibError, match=rf"runs/{RUN}/evaluation\.json: dataset or card: .*run dvc repro"):
        verify.main()
    write(Path(f"runs/{RUN}/evaluation.json"), {})
    with pytest.raises(GenlibError, match=r"evaluation\.json: metrics: missing; delete the file and run dvc repro"):
        verify.main()


@pytest.mark.parametrize("text", ["null", "[]", '[["commit", "c0de"]]', "3"])
@pytest.mark.parametrize("name", ["provenance.json", "evaluation.json"])
def test_a_file_of_a_run_that_is_no_mapping_is_refused(name: str, text: str, author: Path) -> None:
    trained(**AGAIN)
    Path(f"runs/{RUN}/{name}").write_text(text)
    for record in (False, True):
        with pytest.raises(GenlibError, match=rf"{name}: .*: not a mapping; delete the file and run dvc repro"):
            verify.main(record=record)


def test_a_broken_bands_json_is_to_be_restored_not_written_again(author: Path) -> None:
    """Both commands that write it read it first."""
    Path("bands.json").write_text("{")
    for record in (True, False):
        with pytest.raises(GenlibError, match=r"bands\.json: content: .*; git checkout bands\.json$"):
            verify.main(record=record, measure=not record)
    git("checkout", "bands.json")
    verify.main(record=True)


def test_the_committed_bands_can_be_read_and_say_how_they_were_measured() -> None:
    known = bands.load(ROOT / "bands.json")
    assert known.about == bands.ABOUT
    text = " ".join(known.about)
    assert all(word in text for word in ("99 % prediction interval", "Student", "threads", "seed", *bands.MACHINE))
