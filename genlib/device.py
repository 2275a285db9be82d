"""The machine's side of a computation: device, threads, and what it is called in provenance."""

import os
import platform
import subprocess
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from genlib.errors import GenlibError
from genlib.memory import keep_freed

GRAPHS_SWITCH = "GENLIB_CUDA_GRAPH"

_OWN_OUTPUTS = (":!dvc.lock", ":!metrics")  # changed by every stage that ends; they decide nothing
_NOISE = (  # torch's
    "This instance was constructed with capturable=True",
    "Synchronization debug mode is a prototype",
    "The AccumulateGrad node's stream does not match",  # of graphs, which were captured on another one
)
_IDENTITY = {"": "vendor_id", "family ": "cpu family", "model ": "model"}  # words before entries of /proc/cpuinfo


def choose(threads: int) -> torch.device:
    """The device that `named` says.

    Also fixes what results would depend on otherwise: algorithms are deterministic, float32 is float32 on CUDA, too
    (where convolutions are computed in TF32 unless torch is told otherwise), and torch and each BLAS that is
    loaded (numpy's; scipy's own, so import scipy.linalg before) use `threads` threads on the CPU, however many cores
    there are and whatever OMP_NUM_THREADS says: a sum is split among threads, so that their number decides how it is
    rounded.
    """
    # cuBLAS reads it when it starts; without it, it may pick a different sum order from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # What use_deterministic_algorithms(True) does, which imports torch's compiler besides, in a second.
    torch.set_deterministic_debug_mode("error")
    # With these algorithms, torch fills whatever it allocates; nothing here reads what was not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    keep_freed()
    torch.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")
    device = named()
    if device.type == "cuda":
        for words in _NOISE:  # a step without a graph, looking for waits, a graph's own stream: all are intended
            warnings.filterwarnings("ignore", words)
    return device


def named() -> torch.device:
    """The device named by GENLIB_DEVICE (auto, cpu, cuda, cuda:N); auto is CUDA where there is one.

    GenlibError where it names none, or one that torch does not see.
    """
    wish = os.environ.get("GENLIB_DEVICE", "auto")
    if wish == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wish)
    except RuntimeError as error:
        raise GenlibError(f"GENLIB_DEVICE={wish!r} is no device; set auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise GenlibError(f"GENLIB_DEVICE={wish!r} is not supported; set auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise GenlibError(
            f"GENLIB_DEVICE={wish!r}: torch sees {torch.cuda.device_count()} CUDA devices; set auto or cpu"
        )
    return device


def allows_graphs(environ: Mapping[str, str]) -> bool:
    """Whether GENLIB_CUDA_GRAPH lets steps be captured: with `auto`, the default, it does, with `off` not."""
    value = environ.get(GRAPHS_SWITCH, "").strip() or "auto"
    if value not in ("auto", "off"):
        raise GenlibError(f"{GRAPHS_SWITCH}: {value!r} is neither auto nor off; set one of them, or unset it")
    return value == "auto"


def provenance(device: torch.device, seconds: float) -> dict[str, Any]:
    """What may differ between equal runs: commit, date, hardware, versions, seconds of work."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no", "--", ".", *_OWN_OUTPUTS)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": _hardware(device),
        "processor": processor(device),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": cuda_libraries(device),
        "python": platform.python_version(),
        "seconds": round(seconds, 1),
    }


def processor(device: torch.device) -> str:
    """What decides how sums are rounded: a GPU's name, or a CPU's vendor, family, model and vector instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    entries = _cpu()
    known = [f"{word}{entries[key]}" for word, key in _IDENTITY.items() if key in entries]
    return f"{' '.join(known) or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def cuda_libraries(device: torch.device) -> str | None:
    """Versions of CUDA and cuDNN, which decide how sums are rounded on a GPU; None for a CPU."""
    return f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if device.type == "cuda" else None


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} CPU cores"
    return f"{cores}, {_cpu().get('model name', platform.machine())}"


def _cpu() -> dict[str, str]:
    """What Linux says of the first CPU; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # outside a repository there is no commit to name
    return answer.stdout.strip()
