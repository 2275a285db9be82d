"""Outputs: what a folder that is replaced may hold, and that only one process writes one."""

from pathlib import Path

import pytest

from genlib.claims import claimed_output
from genlib.errors import GenlibError
from genlib.files import staged_folder


def write(path: Path, *names: str, earlier: tuple[str, ...] = ()) -> None:
    with staged_folder(path, earlier) as folder:
        for name in names:
            (folder / name).write_text("new")


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "a" / "figures"
    write(out, "one.png", "two.png")
    write(out, "one.png", "two.png", "three.png")
    write(out, "one.png", "three.png", earlier=("two.png",))
    assert sorted(path.name for path in out.iterdir()) == ["one.png", "three.png"]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (["thesis.txt"], "figures: is to be replaced, and holds 'thesis.txt', which would be lost; move that away"),
        (["thesis.txt", "one.png", "photos/me.jpg"], "holds 'photos' and 1 more, which would be lost"),
    ],
)
def test_what_nobody_here_wrote_is_not_lost(held: list[str], said: str, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    for name in held:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("precious")
    with pytest.raises(GenlibError) as caught:
        write(out, "one.png")
    assert said in str(caught.value)
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == set(held)
    assert all((out / name).read_text() == "precious" for name in held)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", [".", "..", "/", "link"])
def test_what_cannot_be_replaced_is_said_before_any_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("elsewhere").mkdir()
    Path("link").symlink_to("elsewhere")
    with pytest.raises(GenlibError, match="not a folder that can be replaced as a whole"), staged_folder(Path(name)):
        raise AssertionError("it was begun")


def test_outputs_of_different_names_are_claimed_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        claimed_output(Path("runs/faces/small-gan/samples.npy")),
        claimed_output(Path("runs/faces-small/gan/samples.npy")),
        claimed_output(Path("../runs/faces/small-gan/samples.npy")),
    ):
        pass
    with (
        claimed_output(Path("runs/demo/x")),
        pytest.raises(GenlibError, match=r"another process \(pid \d+\) is writing \S+/runs/demo/x"),
        claimed_output(tmp_path / "runs/demo/x"),
    ):
        pass
    assert not (tmp_path.parent / ".work").exists()
