# The five verbs: demo test check bench docs. Each sets up what it needs in $(VENV).
PYTHON ?= python3
VENV ?= .venv
OUT ?= demo-out
BIN := $(VENV)/bin
PYTEST ?= -m "not slow"
# What pytest is told: `make test PYTEST=` runs the slow tests too, as .ci/run does.

# Hundreds of short Python processes start in the tests: their bytecode is kept, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check bench docs clean

demo: $(VENV)/.demo
	$(BIN)/python tools/demo.py $(OUT)

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/link_typing.py
	$(BIN)/mypy -p cutset

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/footprint.py

docs: $(VENV)/.dev
	$(BIN)/python tools/write_cli_reference.py

$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(OUT) build .mypy_cache .pytest_cache .ruff_cache .hypothesis
