"""The steps of the pipeline, and the commands beside them, one module each; `python -m stages.<name>` runs one."""

import sys

from genlib.interrupts import answer_at_once

if sys.argv[0] == "-m":
    answer_at_once()
