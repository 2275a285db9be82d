"""`python -m genlib`: the commands of `genlib.cli`."""

import sys

if __name__ == "__main__":
    try:
        from genlib.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"error: {sys.executable} has no {error.name}; run make setup, then source .venv/bin/activate")
    main()
