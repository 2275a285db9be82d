"""Runs fuzzers one after another: `python -m fuzz [--seconds 600] [NAME ...]`. The status counts those that found."""

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

NAMES = ("idx", "lfw", "celeba", "params", "models", "features", "resume", "mirror", "arrays")


def main() -> int:
    """The number of fuzzers that ended with a finding."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, choices=[*NAMES, NAMES], metavar="NAME")
    parser.add_argument("--seconds", type=int, default=600, help="for each")
    parser.add_argument("--folder", type=Path, default=Path(".work/fuzz"), help="corpora, logs and findings")
    arguments = parser.parse_args()
    if find_spec("atheris") is None:
        parser.error("atheris is missing; make fuzz installs it, on Linux")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    failed = [name for name in arguments.names if not _passes(name, arguments.seconds, arguments.folder)]
    print(f"findings in: {', '.join(failed)}" if failed else "no findings")
    return len(failed)


def _passes(name: str, seconds: int, folder: Path) -> bool:
    log = folder / f"{name}.log"
    command = [sys.executable, "-m", f"fuzz.{name}", "--seconds", str(seconds), "--folder", str(folder)]
    # libFuzzer ends without cleaning up, so the inputs' folder is made here; in memory, for a disk is ten times slower.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as inputs, log.open("wb") as output:
        environ = os.environ | {"TMPDIR": inputs, "OMP_NUM_THREADS": "1"}
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environ).returncode
    done = [line for line in log.read_text("utf-8", "replace").splitlines() if " cov: " in line or "exec/s" in line]
    print(f"{name}: {f'finding, see {log}' if status else 'no finding'}; {done[-1] if done else 'it did not start'}")
    return status == 0


if __name__ == "__main__":
    sys.exit(main())
