# Angarium: the commands a person needs. `make help` lists them.
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
SANDBOX ?= .sandbox
SMTP_PORT ?= 2525
SUBMISSION_PORT ?= 2587
SUBMISSIONS_PORT ?= 2465
HTTP_PORT ?= 8025
SINK_PORT ?= 2526
TEST_PROCESSES ?= auto
DEMO    ?= .demo
PROMETHEUS_PORT ?= 9090
DEMO_OPTIONS ?=
CORE_SOURCES := setup.py pyproject.toml constraints.txt $(wildcard cext/*.pyx cext/*.h src/angarium/_core/*.pxd)

.PHONY: help setup run demo boards test lint format bench bench-micro bench-load bench-queue bench-domains bench-hop bench-login torture clean peers

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
	    --submissions-port $(SUBMISSIONS_PORT) --http-port $(HTTP_PORT) --sink-port $(SINK_PORT)

demo: setup      ## a sandbox with thousands of messages, deferrals and bounces, and Prometheus when it is installed
	$(BIN)/angarium demo --folder $(DEMO) --smtp-port $(SMTP_PORT) --submission-port $(SUBMISSION_PORT) \
	    --http-port $(HTTP_PORT) --hosts-port $(SINK_PORT) --prometheus-port $(PROMETHEUS_PORT) --rules grafana $(DEMO_OPTIONS)

boards: setup    ## the boards, alert and recording rules of grafana/, from the metric registry
	$(BIN)/python -m grafana.boards

peers:           ## install the peer programs that tests talk to (Debian, root); elsewhere those tests skip
	.ci/install-peers

test: setup peers  ## the whole test suite, in as many processes as there are cores
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --benchmark-disable

lint: export PATH := $(abspath $(BIN)):$(PATH)
lint: setup      ## formatting, types, layering, Cython lint
	ruff format --check .
	ruff check .
	mypy
	python -m mypy.stubtest angarium._core --mypy-config-file pyproject.toml
	lint-imports
	cython-lint cext src/angarium/_core

format: setup    ## let ruff format the tree
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: bench-micro bench-load bench-queue  ## all benchmarks, with a report in bench/results

bench-micro: setup   ## parsers and records against their reference models
	$(BIN)/python -m pytest bench/micro --benchmark-only -o testpaths=bench -o timeout=0

bench-load: setup peers  ## Angarium and Postfix as store-and-forward relays, taking turns
	$(BIN)/python -m bench.load run --relays angarium,postfix,direct

bench-queue: setup peers  ## a million deferred messages, a dead next hop beside Postfix, a slow one, space on disk: 25 minutes
	$(BIN)/python -m bench.queue run

bench-domains: setup peers  ## 100,000 distinct domains by MX beside Postfix, with the same resolver
	$(BIN)/python -m bench.domains run

bench-hop: setup peers  ## routing, look-ups and policies beside none of them; TLS to the next hop beside Postfix
	$(BIN)/python -m bench.hop run

bench-login: setup   ## a storm of wrong passwords while others send; submission with TLS and AUTH beside plain SMTP
	$(BIN)/python -m bench.login_storm storm
	$(BIN)/python -m bench.login_storm submission

torture: setup   ## hundreds of kill -9 under load: what was acknowledged, what arrived, what arrived twice
	$(BIN)/python -m tests.faults.torture

clean:           ## remove what was built
	rm -rf build dist *.egg-info src/*.egg-info $(VENV)/.built
	find src -name '*.so' -delete
	find cext -name '*.c' -delete
