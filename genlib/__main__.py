"""`python -m genlib`: the commands of `genlib.cli`."""

import sys

from genlib.interrupts import answer_at_once

if __name__ == "__main__":
    answer_at_once()
    try:
        from genlib.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"error: {sys.executable} has no {error.name}; run make setup, then source .venv/bin/activate")
    main()
