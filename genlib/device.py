"""The machine's side of a computation: device, threads, precision. None of it is a param."""

import os
import platform
import subprocess
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from genlib.errors import GenlibError


def choose() -> torch.device:
    """The device named by GENLIB_DEVICE (auto, cpu, cuda, cuda:N); auto is CUDA where there is one.

    Also fixes what results must not depend on: deterministic algorithms, and GENLIB_THREADS threads on the CPU.
    """
    # cuBLAS reads it when it starts; without it, it may pick a different sum order from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    threads = os.environ.get("GENLIB_THREADS")
    if threads is not None:
        if not threads.isdecimal() or int(threads) < 1:
            raise GenlibError(f"GENLIB_THREADS={threads!r} is not a whole number above 0; set one or unset it")
        torch.set_num_threads(int(threads))
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


def set_precision(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Apply `precision` (float32, tf32, bf16); the context is to hold around forward and backward passes."""
    if precision != "float32" and device.type != "cuda":
        raise GenlibError(f"precision: {precision} needs a CUDA device, this is {device.type}; set precision: float32")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return torch.autocast("cuda", torch.bfloat16) if precision == "bf16" else nullcontext()


def provenance(device: torch.device, seconds: float) -> dict[str, Any]:
    """What may differ between equal runs: commit, date, hardware, versions, seconds of work."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": _hardware(device),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seconds": round(seconds, 1),
    }


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} CPU cores"
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{cores}, {names[0] if names else platform.machine()}"


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # outside a repository there is no commit to name
    return answer.stdout.strip()
