"""The processes of one training: started by PyTorch's launcher, joined to a team, ended together.

`torchrun --nproc-per-node N -m -- stages.train ...` starts them, on one host or many, or, where GENLIB_PROCESSES says
N, `python -m stages.train ...` does it by the same launcher. An error in one ends all; one of them says why.
"""

import gc
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from genlib.errors import GenlibError
from genlib.terminal import Terminated
from genlib.training.distributed import ALONE, LostError, Team

PROCESSES = "GENLIB_PROCESSES"

_LAUNCHED = "TORCHELASTIC_RUN_ID"  # what PyTorch's launcher sets for those that it starts
_PATIENCE = timedelta(days=1)  # the first process judges alone; that one is gone is seen otherwise than by waiting
_SECONDS_TO_END = 15
_SECONDS_TO_BE_ENDED = 3
_LOOK_SECONDS = 0.5  # how often a process looks whether its launcher is still there


def process_count(environ: Mapping[str, str]) -> int:
    """The number of processes that GENLIB_PROCESSES asks for, 1 if there is nothing to start.

    That is so, too, in a process that PyTorch's launcher has started, whose own number holds.
    """
    value = environ.get(PROCESSES, "").strip()
    if not value:
        return 1
    if not (value.isascii() and value.isdecimal() and 1 <= len(value) <= 4 and int(value) >= 1):
        raise GenlibError(f"{PROCESSES}: {value!r} is not a whole number from 1 to 9999; set one, or unset it")
    return 1 if _LAUNCHED in environ else int(value)


def check_device(processes: int, device: torch.device) -> None:
    """GenlibError if this host has no device for each of its `processes` (two or more)."""
    if device.type != "cuda":
        return
    if str(device) != "cuda":
        raise GenlibError(
            f"GENLIB_DEVICE='{device}' names one device, and there are {processes} processes; set it to cuda"
        )
    if processes > torch.cuda.device_count():
        raise GenlibError(
            f"{processes} processes need a CUDA device each, torch sees {torch.cuda.device_count()}; lower {PROCESSES} "
            "(torchrun: --nproc-per-node), or set GENLIB_DEVICE=cpu"
        )


def own_device(device: torch.device, team: Team, environ: Mapping[str, str]) -> torch.device:
    """Of CUDA devices, that of this process, which becomes the current one. GenlibError as `check_device`."""
    if device.type != "cuda":
        return device
    if team.size > 1:
        check_device(int(environ["LOCAL_WORLD_SIZE"]), device)
        device = torch.device("cuda", int(environ["LOCAL_RANK"]))
    if device.index is not None:  # without a number, it is the current one already, and torch refuses to set it
        torch.cuda.set_device(device)
    return device


def start(module: str, words: Sequence[str], processes: int) -> None:
    """Run `python -m module words` in so many processes of this host, by PyTorch's launcher, and wait for them.

    What they say goes where this process's words go. If one fails, the others and this one are ended (SystemExit).
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # It would tell at length that a process has failed; that process has said in one line why.
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="genlib-launch-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # a port that is free
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            shutdown_timeout=_SECONDS_TO_END,
        )
        try:
            elastic_launch(config, sys.executable)("-m", module, *words)
        except ChildFailedError as error:
            sys.exit(_said_of({rank: failure.exitcode for rank, failure in error.failures.items()}) or 1)
        except SignalException as error:
            # A timer of the launcher may still run; collected in its own thread, it would complain of that.
            gc.disable()
            raise (Terminated if error.sigval == signal.SIGTERM else KeyboardInterrupt) from None


@contextmanager
def joined(environ: Mapping[str, str]) -> Iterator[Team]:
    """The team of this process inside the block: itself alone, unless PyTorch's launcher has started it.

    An error that leaves the block is passed on in the process that was the first to have one; the others end without a
    word (SystemExit). So does the first process when it is interrupted, for then the launcher speaks.
    """
    if _LAUNCHED not in environ:
        yield ALONE
        return
    threading.Thread(target=_end_with_launcher, args=(os.getppid(),), daemon=True).start()
    store, rank, size = next(rendezvous("env://"))
    if rank > 0:  # nothing is to be brought in order here, and in the middle of an exchange Python hears no signal
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        try:
            yield Team(rank, size)
        except LostError:
            time.sleep(_SECONDS_TO_BE_ENDED)  # by the launcher, if it is so: then this error is not the first
            raise
    except KeyboardInterrupt as error:
        sys.exit(143 if isinstance(error, Terminated) else 130)
    except Exception:
        if _first_to_fail(store):
            raise
        sys.exit(1)
    dist.destroy_process_group()


def _first_to_fail(store: Any) -> bool:
    try:
        return bool(store.add("failed", 1) == 1)
    except RuntimeError:  # the launcher, which keeps the store, is gone
        return False


def _end_with_launcher(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def _said_of(statuses: Mapping[int, int]) -> str | None:
    """What to say where a process was killed, by whatever, and so could not say anything itself."""
    for rank, status in statuses.items():
        if status < 0 and -status not in (signal.SIGTERM, signal.SIGINT):
            name = signal.Signals(-status).name
            said = f"error: process {rank} of the training was killed ({name})"
            if -status != signal.SIGKILL:
                return f"{said}; see what is said above, and run again to go on"
            return f"{said}, perhaps for want of memory; lower {PROCESSES} or batch_size, and run again to go on"
    return None
