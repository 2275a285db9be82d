"""Choosing a device: what a GPU would be asked, and how sums are rounded, as far as a machine without one can tell."""

import signal
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch

from genlib import checkpoint, device, launch
from genlib.errors import GenlibError
from genlib.memory import is_shortage
from genlib.settings import ProgressSettings, RunSettings
from genlib.training.distributed import ALONE, Team
from genlib.training.precision import set_precision

Small = Callable[..., RunSettings]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def as_before(one_thread: None) -> Iterator[None]:
    """What `device.choose` and `set_precision` switch for the whole process."""
    deterministic = torch.get_deterministic_debug_mode()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with warnings.catch_warnings():
        yield
    torch.set_deterministic_debug_mode(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine with a GPU, as far as it is asked; devices that were made the current one."""
    current: list[torch.device] = []

    def set_device(wanted: torch.device) -> None:
        torch.cuda._get_device_index(wanted)  # type: ignore[attr-defined]  # with which torch's own begins
        current.append(wanted)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    return current


@pytest.mark.parametrize("wish", ["auto", "cuda", "cuda:0"])
def test_a_training_alone_takes_the_gpu_it_is_given(
    wish: str, one_gpu: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENLIB_DEVICE", wish)
    chosen = launch.own_device(device.choose(1), ALONE, {})
    assert chosen.type == "cuda"
    assert one_gpu == ([chosen] if wish == "cuda:0" else [])


def test_each_process_of_a_team_takes_its_own(one_gpu: list[torch.device]) -> None:
    environ = {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    assert launch.own_device(CUDA, Team(1, 2), environ) == torch.device("cuda", 0)
    assert one_gpu == [torch.device("cuda", 0)]


def in_tf32() -> tuple[bool, bool]:
    return torch.get_float32_matmul_precision() != "highest", torch.backends.cudnn.allow_tf32


def test_float32_is_float32_outside_a_training_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_DEVICE", "cpu")
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    device.choose(1)
    assert in_tf32() == (False, False)


def test_tf32_holds_where_it_is_asked_for_only() -> None:
    context = set_precision("tf32", CUDA)
    for _ in range(2):  # once an epoch
        assert in_tf32() == (False, False)
        with context:
            assert in_tf32() == (True, True)
    assert in_tf32() == (False, False)


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_an_old_gpu_is_not_asked_for_what_it_would_imitate(precision: str) -> None:
    words = (
        rf"precision: {precision} needs a GPU of capability 8.0 or more.*\(Some GPU\) has 7.5; set precision: float32"
    )
    with pytest.raises(GenlibError, match=words):
        set_precision(precision, CUDA)
    set_precision("float32", CUDA)


@pytest.mark.usefixtures("one_gpu")
def test_what_torch_says_of_our_own_intentions_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_DEVICE", "auto")
    warnings.simplefilter("always")
    device.choose(1)
    with warnings.catch_warnings(record=True) as said:
        warnings.warn("This instance was constructed with capturable=True or some of", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [str(warning.message) for warning in said] == ["something else"]


@pytest.mark.usefixtures("one_gpu")
def test_a_gpus_libraries_are_part_of_what_a_stopped_training_is_known_by(
    small: Small, progress: ProgressSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert device.cuda_libraries(CPU) is None
    known = []
    for version in (91000, 91001):
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda version=version: version)
        assert str(device.cuda_libraries(CUDA)).endswith(f", cuDNN {version}")
        known.append(checkpoint.identity(small("ae"), 0, 1, progress, {}, CUDA))
    assert known[0] != known[1]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("CUDA error: out of memory\nmore"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("could not create a primitive descriptor for a pooling"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_a_want_of_memory_is_known_by_what_is_said(error: Exception, expected: bool) -> None:
    assert is_shortage(error) is expected


def test_only_a_kill_is_taken_for_a_want_of_memory() -> None:
    killed, aborted = (launch._said_of({1: -number}) for number in (signal.SIGKILL, signal.SIGABRT))
    assert killed is not None
    assert aborted is not None
    assert "perhaps for want of memory" in killed
    assert aborted.startswith("error: process 1 of the training was killed (SIGABRT); ")
    assert "memory" not in aborted
