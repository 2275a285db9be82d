"""Commands as processes of their own, without the seconds that importing torch, MLflow and DVC takes each time.

One process imports all that, once, and forks for each command: from there on it is `python -m stages.train ...`, with a
folder, an environment, files for what it says, limits and a session of its own. That process may have mounts of its
own, too, so that it can put a command on a disk that is full or read-only.
"""

import atexit
import gc
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_IMPORTED = (
    *("dvc.cli.parser", "dvc.repo", "dvc.repo.reproduce", "mlflow", "mlflow.store.tracking.sqlalchemy_store"),
    *("torch.optim.swa_utils", "genlib.checkpoint", "genlib.data.kinds.digits"),
    *("genlib.data.processed", "genlib.data.sources", "genlib.evaluation", "genlib.features", "genlib.figures.curves"),
    *("genlib.figures.gallery", "genlib.presentation.site", "genlib.tracking"),
    *("genlib.training.history", "genlib.training.judging"),
)


class Command:
    """A command that was started; `pid` is also its process group."""

    def __init__(self, nursery: "Nursery", pid: int, said: Path) -> None:
        self.pid, self._nursery, self._said = pid, nursery, said
        self._status: int | None = None

    def wait(self, seconds: float = 120) -> int:
        """Its exit status, minus the signal that ended it; after so many seconds all its processes are killed."""
        if self._status is None:
            self._status = int(self._nursery.ask(wait=self.pid, seconds=seconds))
        return self._status

    def send(self, number: signal.Signals) -> None:
        """A signal to all its processes, as a terminal sends it."""
        os.killpg(self.pid, number)

    @property
    def out(self) -> str:
        """Its standard output so far."""
        return self._said.with_suffix(".out").read_text()

    @property
    def err(self) -> str:
        """Its standard error so far."""
        return self._said.with_suffix(".err").read_text()


class Nursery:
    """Starts commands. `folder` is where what they say is kept; `private`: it has mounts of its own."""

    def __init__(self, folder: Path, private: bool = False) -> None:
        self._folder, self._count = folder, 0
        words = ["unshare", "--map-root-user", "--mount"] if private else []
        self._process = subprocess.Popen(
            [*words, sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(
        self,
        module: str,
        *words: object,
        cwd: Path,
        env: Mapping[str, str],
        limits: Mapping[str, int] | None = None,
        strike: tuple[str, signal.Signals] | None = None,
        out: str | None = None,
    ) -> Command:
        """Start `python -m module words`.

        Args:
            cwd, env: its folder and its environment.
            limits: of the resource module; RLIMIT_AS counts from what is in use.
            strike: part of a path and a signal, which the command gets when it opens such a file to write it.
            out: where its standard output goes, if not where `Command.out` finds it.
        """
        self._count += 1
        said = self._folder / f"{self._count:04d}"
        for ending in (".out", ".err"):
            said.with_suffix(ending).write_text("")
        request = {
            "argv": [module, *map(str, words)],
            "cwd": str(cwd),
            "env": dict(env),
            "files": [os.devnull, out or f"{said}.out", f"{said}.err"],
            "limits": dict(limits or {}),
            "strike": strike,
        }
        return Command(self, self.ask(**request), said)

    def mount(self, *words: str) -> None:
        """Run `mount` where the commands run."""
        error = self.ask(mount=list(words))
        if error:
            raise OSError(error)

    def seen(self, path: Path) -> Path:
        """A path as the commands see it, with their mounts."""
        return Path(f"/proc/{self._process.pid}/root", *path.parts[1:])

    def ask(self, **request: Any) -> Any:
        """The answer to a request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it, and what it has started and nobody has waited for."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _wait(pid: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


def _become(request: dict[str, Any]) -> None:
    """Make this process, freshly forked, what a new one would be for the command."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for descriptor, path in enumerate(request["files"]):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), descriptor)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  (buffered, whatever PYTHONUNBUFFERED has made of ours)
    for name, value in request["limits"].items():
        if name == "RLIMIT_AS":
            value += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(getattr(resource, name), (value, value))
    if request["strike"]:
        _arm(*request["strike"])
    sys.argv = request["argv"]


def _arm(text: str, number: int) -> None:
    armed = [True]

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and armed and text in str(arguments[0]) and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            armed.clear()
            os.kill(os.getpid(), number)

    sys.addaudithook(hear)


def _run(module: str) -> int:
    """`python -m module` and its exit status."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  (as Python itself does)
        traceback.print_exc()
        return 1
    return 0


def _serve() -> bool:
    """Answer requests; False when there are no more, True in a process that is to become a command."""
    running = set()
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any = None
        if "wait" in request:
            answer = _wait(request["wait"], request["seconds"])
            running.discard(request["wait"])
        elif "mount" in request:
            answer = subprocess.run(["mount", *request["mount"]], capture_output=True, text=True, check=False).stderr
        else:
            answer = os.fork()
            if answer == 0:
                _become(request)
                return True
            running.add(answer)
        print(json.dumps(answer), flush=True)
    for pid in running:  # a test that failed has not waited for them
        os.killpg(pid, signal.SIGKILL)
    return False


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "CRITICAL"}
    for name in _IMPORTED:
        import_module(name)
    assert threading.active_count() == 1, threading.enumerate()  # a fork has none but the one that forks
    gc.freeze()
    if _serve():
        status = _run(sys.argv[0])
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # to take down all that was imported would cost each command a second
