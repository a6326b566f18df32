# Angarium: the commands a person needs. `make help` lists them.
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
SANDBOX ?= .sandbox
SMTP_PORT ?= 2525
SUBMISSION_PORT ?= 2587
SUBMISSIONS_PORT ?= 2465
HTTP_PORT ?= 8025
CORE_SOURCES := setup.py pyproject.toml constraints.txt $(wildcard cext/*.pyx cext/*.h src/angarium/_core/*.pxd)

.PHONY: help setup run demo test lint format bench bench-micro bench-load clean peers

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

setup: $(VENV)/.built   ## venv with everything, and the compiled core

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip --disable-pip-version-check -q install -c constraints.txt pip setuptools wheel cython
	@touch $@

$(VENV)/.deps: $(VENV)/.venv pyproject.toml constraints.txt
	$(BIN)/python .ci/requirements.py > $(VENV)/requirements.txt
	$(BIN)/pip --disable-pip-version-check -q install -c constraints.txt -r $(VENV)/requirements.txt
	@touch $@

$(VENV)/.built: $(VENV)/.deps $(CORE_SOURCES)
	$(BIN)/pip --disable-pip-version-check -q install --no-build-isolation --no-deps -e .
	@touch $@

run: setup       ## the relay in sandbox mode: nothing leaves this machine
	$(BIN)/angarium serve --sandbox --spool $(SANDBOX) --smtp-port $(SMTP_PORT) --submission-port $(SUBMISSION_PORT) \
	    --submissions-port $(SUBMISSIONS_PORT) --http-port $(HTTP_PORT)

peers:           ## install the peer programs that tests talk to (Debian, root); elsewhere those tests skip
	.ci/install-peers

test: setup peers  ## the whole test suite
	$(BIN)/python -m pytest

lint: setup      ## formatting, types, layering, Cython lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest angarium._core --mypy-config-file pyproject.toml
	$(BIN)/lint-imports
	$(BIN)/cython-lint cext src/angarium/_core

format: setup    ## let ruff format the tree
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-micro: setup   ## parsers against their reference models
	$(BIN)/python -m pytest bench/micro --benchmark-only -o testpaths=bench -p no:cacheprovider

clean:           ## remove what was built
	rm -rf build dist *.egg-info src/*.egg-info $(VENV)/.built
	find src -name '*.so' -delete
	find cext -name '*.c' -delete
