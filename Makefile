# Everything runs in .venv, made here; nothing is installed outside this directory.
#   make train   a real model, trained by a master, 2 parameter servers and 2 workers
#   make test    ruff, mypy, the import checker, then the whole test suite; needs no root
#   make apiserver   builds, once, what the tests of Kubernetes in make test need: Debian 12; no root
#   make test-kubernetes   the same as pods, on a real cluster that it brings up: needs root; long tests
#   make lint    only the checkers     make proto   regenerate the protobuf code
#   make bench   the benchmarks, meant for 20 minutes; benchmarks/results has what they found
#   make bench-check BEFORE=FILE AFTER=FILE   which of their figures moved, by what ratio
#   make clean   remove what was made, .venv included
#   make screenshots   docs/pictures: the dashboard of a job that loses a worker and a parameter server
#   make chaos   jobs whose processes are killed for CHAOS_SECS (300); CHAOS_SEED chooses which

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help announce python-check train test apiserver test-kubernetes lint chaos proto bench bench-check screenshots clean

# The first Python that TensorFlow has a build for. `make PYTHON=/path/to/python train` overrides.
PYTHON ?= $(or $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done),python3)

BIN := .venv/bin
TRAIN_STAMP := .venv/installed-to-train
TEST_STAMP := .venv/installed-to-test
DATA := data/mnist
PROTO := $(wildcard elasticdl/proto/*.proto)
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Of TensorFlow's own minor release; docs/decisions/dependencies.md says why without dependencies.
INSTALL_TF_KERAS = $(PIP) install -qq --no-deps "tf-keras==$$($(BIN)/python -c \
	'from importlib.metadata import version as v, packages_distributions as p; \
	print(*v(p()["tensorflow"][0]).split(".")[:2], "*", sep=".")')"

# What S3 needs of moto[server], which brings much besides; tests/object_stores.py says the same.
S3_SERVER = 'moto[s3]>=5.2,<6' 'flask>=3,<4' 'flask-cors>=5,<7'

export TF_CPP_MIN_LOG_LEVEL ?= 2
export PYTHONUNBUFFERED := 1

help:
	@sed -n '2,12s/^#//p' Makefile

announce:
	@if [ -e $(TRAIN_STAMP) ] || [ -e $(TEST_STAMP) ]; then \
	  echo "make train: 1 to 2 minutes on 2 cores; everything it needs is here already."; \
	else \
	  echo "make train: 2 to 4 minutes on 2 cores, plus the time to download 550 MB;" \
	    "takes 2.4 GB of disk in this directory."; \
	fi

python-check:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: no $(PYTHON) here: sudo apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "make: $(PYTHON) is $$($(PYTHON) --version 2>&1); needs 3.11, 3.12 or 3.13:" \
	    "sudo apt-get install python3.11 python3.11-venv, then make PYTHON=python3.11" >&2; \
	  exit 1; }
	@[ -e $(BIN)/python ] || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot make virtual environments:" \
	    "sudo apt-get install python3-venv" >&2; exit 1; }

$(BIN)/python: | python-check
	@$(PYTHON) -m venv .venv

# A virtual environment that can test can train as well.
$(TRAIN_STAMP): setup.py pyproject.toml $(PROTO) | $(BIN)/python
	@echo "Installing into .venv (the longest part, and silent) ..."
	@$(PIP) install -qq --editable '.[zoo]'
	@$(INSTALL_TF_KERAS)
	@touch $@

$(TEST_STAMP): setup.py pyproject.toml $(PROTO) | $(BIN)/python
	@echo "Installing into .venv (the longest part, and silent) ..."
	@$(PIP) install -qq --editable '.[zoo,dev,tensorboard,kubernetes]'
	@$(INSTALL_TF_KERAS)
	@$(BIN)/python -m venv .venv/s3-server
	@.venv/s3-server/bin/python -m pip --disable-pip-version-check install -qq $(S3_SERVER)
	@touch $@ $(TRAIN_STAMP)

$(DATA)/.complete: model_zoo/mnist/make_data.py | $(TRAIN_STAMP)
	@$(BIN)/python -m model_zoo.mnist.make_data --output=$(DATA)
	@touch $@

train: announce python-check $(TRAIN_STAMP) $(DATA)/.complete
	@$(BIN)/python -m elasticdl.api train \
	  --model_zoo=model_zoo --model_def=mnist.MnistElasticDLSpec \
	  --data='$(DATA)/train/*.recordio' --validation_data='$(DATA)/test/*.recordio' \
	  --output=output/mnist --overwrite --num_ps=2 --num_workers=2 --num_epochs=12 --minibatch_size=32
	@$(BIN)/python -m elasticdl.api predict \
	  --trained_model=output/mnist --data='$(DATA)/test/*.recordio' \
	  --output=output/mnist_predictions.csv --overwrite --keep_columns=label
	@echo "next: source .venv/bin/activate, then elasticdl --help; README.md says how to kill a worker"

# Two tests at a time: a real job leaves a core idle while it starts and while it waits.
# Those with the marker apiserver are skipped until make apiserver was run.
test: lint
	@$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal -m "not kubernetes and not long" tests

apiserver: python-check $(TEST_STAMP)
	@$(BIN)/python -m tests.cluster build --only=apiserver

# SHORT=1: those alone that a change should not go without.
test-kubernetes: python-check $(TEST_STAMP)
	@$(BIN)/python -m tests.cluster build
	@$(BIN)/python -m pytest -m "$(if $(SHORT),kubernetes and short,kubernetes or apiserver or long)" tests

lint: python-check $(TEST_STAMP)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

chaos: python-check $(TEST_STAMP)
	@CHAOS_SECS=$${CHAOS_SECS:-300} $(BIN)/python -m pytest -q -s tests/chaos

proto: python-check $(TEST_STAMP)
	@$(PIP) install -qq --no-deps --editable .

bench: python-check $(TEST_STAMP)
	@$(BIN)/python -m benchmarks.suite

bench-check: python-check $(TEST_STAMP)
	@[ -n "$(BEFORE)" ] && [ -n "$(AFTER)" ] || { \
	  echo "make bench-check BEFORE=FILE AFTER=FILE: two results of make bench" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.compare "$(BEFORE)" "$(AFTER)"

screenshots: python-check $(TEST_STAMP) $(DATA)/.complete
	@$(BIN)/python -m tests.dashboard.screenshots

clean:
	rm -rf .venv build dist *.egg-info data output .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis .import_linter_cache
	rm -f elasticdl/proto/*_pb2.py elasticdl/proto/*_pb2.pyi elasticdl/proto/*_pb2_grpc.py
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
