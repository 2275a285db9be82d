# Each target is a few lines that a person could type with .venv/bin first on PATH. `make` alone lists them.

PYTHON ?= python3
HOST := 127.0.0.1
PORT ?= 5001
UV := 0.13.9
FUZZ_SECONDS := 600
PAGE := presentation/demo/index.html
SUPPORTED := -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'

# Whatever environment is active in the calling shell, .venv is the one that is used.
SHELL := bash
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH UV_SYSTEM_PYTHON
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help setup demo test repro verify ui lint torture fuzz lock

help:
	@echo "make demo    train on drawn digits and faces and make a page of results (minutes)"
	@echo "make test    run the tests"
	@echo "make repro   bring everything up to date, real datasets included (hours)"
	@echo "make verify  compare the metrics here with the committed ones"
	@echo "make torture kill a small pipeline 40 times and compare its bytes (half an hour)"
	@echo "make fuzz    feed every reader what nobody would write (FUZZ_SECONDS=600 each)"
	@echo "make ui      serve MLflow on this machine (make ui PORT=5002: elsewhere)"
	@echo "make lint    check style and types"
	@echo "make lock    pin the versions that pyproject.toml allows in requirements.lock"
	@echo "make setup   install what the lock names into .venv; the others do it too, when needed"

setup: .venv/ready

demo: .venv/ready
	python -m stages.repro present@demo
	@python -c 'from pathlib import Path; page = Path("$(PAGE)").resolve(); print(f"\nThe results are in {page}"); \
	print(f"To open them: python3 -m webbrowser {page.as_uri()}")'

test: .venv/ready
	pytest -n auto --maxprocesses 4 --dist loadfile

repro: .venv/ready
	python -m stages.repro --keep-going

verify: .venv/ready
	@python -m stages.verify

torture: .venv/ready
	python tests/torture.py --kills 40

fuzz: .venv/ready
	uv pip install --quiet --target .work/fuzz/atheris --require-hashes -r fuzz/requirements.lock
	PYTHONPATH=.work/fuzz/atheris python -m fuzz --seconds $(FUZZ_SECONDS)

ui: .venv/ready
	@case "$$MLFLOW_TRACKING_URI" in \
	http*) echo "error: MLFLOW_TRACKING_URI names a server: open that address, or unset it" >&2; exit 1;; \
	"") [ -f mlflow.db ] || { echo "error: mlflow.db is missing, nothing is logged yet; run make demo" >&2; exit 1; };; esac
	@python -c 'import socket; socket.create_server(("$(HOST)", int("$(PORT)"))).close()' 2>/dev/null || \
	{ echo "error: port $(PORT) is taken or cannot be used; make ui PORT=... names another" >&2; exit 1; }
	@echo "MLflow is at http://$(HOST):$(PORT) until Ctrl-C"
	mlflow server --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" --host $(HOST) --port $(PORT) --workers 1

lint: .venv/ready
	ruff check
	ruff format --check
	mypy

lock: .venv/ready
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url -o requirements.lock

# The stamp is written last, so that an interrupted installation is taken up again.
.venv/ready: requirements.lock
	@.venv/bin/python $(SUPPORTED) 2>/dev/null || rm -rf .venv
	@[ -d .venv ] || $(PYTHON) $(SUPPORTED) 2>/dev/null || { echo "error: $(PYTHON) is missing or is not" \
	"Python 3.11, 3.12 or 3.13; install one of these and name it, such as: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	.venv/bin/uv pip sync --python .venv/bin/python --require-hashes --compile-bytecode requirements.lock
	@touch .venv/ready
