"""The steps of the pipeline, and the commands beside them, one module each; `python -m stages.<name>` runs one."""

import os
import signal
import sys


def _interrupted(*_: object) -> None:
    os.write(2, b"interrupted; nothing was begun, run it again\n")
    os._exit(130)


# `python -m stages.train` imports for seconds before it can answer Ctrl-C; until then this does (see genlib.terminal).
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _interrupted)
