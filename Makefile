# `make train` and `make test` do all the set-up themselves; `make help` lists the rest.
# Only `.venv/bin/python` is used, never a script beside it, so that the folder may be moved and may hold spaces.

# Set these on the command line; the environment does not change them.
PYTHON :=
CONFIG := minigrid
EXP := runs/$(CONFIG)
NPROC := 2
ARGS :=
WORKERS := 3
JOBS := 2
TESTS := tests ding_normmon
PYTHONS := python3.10 python3.12 python3.13
PYTEST_ARGS :=

# One thread per process: two ranks or two test processes with two threads each stand in each other's way.
export OMP_NUM_THREADS := 1
export TORCH_INDEX ?=

RUN := .venv/bin/python -m
# loadgroup: tests go to whichever process is free, as with `load`, but those of one group stay on one process, one
# after another. All tests that start ranks of their own are one group (tests/conftest.py), so that at most one of them
# runs at a time.
PYTEST = $(RUN) pytest $(TESTS) --doctest-modules -n $(WORKERS) --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help env train test test-all test-matrix test-fast test-recipes lint faults peers docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  make train CONFIG=mixed EXP=runs/mine NPROC=4 ARGS='--seed 1 --set policy.monitor.monitor_norm_freq=20'"
	@echo "      EXP is taken as it is; where it exists the run goes to EXP_yymmdd_hhmmss, unless ARGS has --resume"
	@echo "  make test TESTS=tests/test_packaging.py PYTEST_ARGS='-x -n 0'"
	@echo "  make env PYTHON=/path/to/python3.10 TORCH_INDEX=https://download.pytorch.org/whl/cpu"

# The first interpreter that starts, has the right version and can make environments.
env:  ## make .venv, or repair it, or see in a moment that it is complete
	@for python in "$(PYTHON)" .venv/bin/python python3.11 python3.10 python3; do \
	    if "$$python" -c 'import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' \
	            2> /dev/null; then \
	        exec "$$python" .ci/make_env.py; \
	    fi; \
	    if [ -n "$(PYTHON)" ]; then break; fi; \
	done; \
	echo "This project needs Python 3.11 or 3.10 with its venv module, and found none of them as" \
	    "$(if $(PYTHON),$(PYTHON),python3.11 or python3.10 or python3). Debian, Ubuntu: apt install python3.11-venv." \
	    "Elsewhere: make env PYTHON=/path/to/python3.11" >&2; \
	exit 1

train: env  ## train multi-task UniZero on two ranks, monitored: CONFIG, EXP, NPROC, ARGS
	@exp="$(EXP)"; \
	if [ -z "$(filter --resume,$(ARGS))" ] && [ -e "$$exp" ]; then \
	    exp="$${exp}_$$(date +%y%m%d_%H%M%S)"; echo "$(EXP) exists: this run goes to $$exp"; \
	fi; \
	exec $(RUN) torch.distributed.run --standalone --nproc_per_node=$(NPROC) \
	    entry/train_unizero_multitask.py --config $(CONFIG) --exp-name "$$exp" $(ARGS)

test: env  ## a test of every kind and every example in the docstrings: TESTS, PYTEST_ARGS, WORKERS
	@$(PYTEST) -m 'not full' $(PYTEST_ARGS)

test-all: env  ## every test: full matrices, every LightZero entry, fuzzing, faults planted in our own code
	@$(PYTEST) $(PYTEST_ARGS)

test-matrix:  ## tests that need neither DI-engine nor LightZero on other Python versions: PYTHONS
	@python3 .ci/test_matrix.py $(PYTHONS)

# The rooms that need no framework: DI-engine and LightZero take ten seconds to import in each test process.
FAST := core rows metrics ranks monitor destinations runs diagnose cli

test-fast: TESTS := $(addprefix tests/,$(FAST)) $(addprefix ding_normmon/,$(FAST))
test-fast: env  ## in a minute: rooms that need no framework, without what is slow or starts several ranks
	@$(PYTEST) -m 'not slow and not distributed and not full' $(PYTEST_ARGS)

RECIPES := build/recipes

test-recipes: env  ## the recipes of docs/other_trainers.md (accelerate, HF Trainer, Lightning), in an environment of their own
	@cmp -s tests/recipes/requirements.txt "$(RECIPES)/requirements.txt" || { \
	    rm -rf "$(RECIPES)" && .venv/bin/python -m venv "$(RECIPES)" && \
	    "$(RECIPES)/bin/python" -m pip install -q --disable-pip-version-check -r tests/recipes/requirements.txt \
	        $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") && \
	    cp tests/recipes/requirements.txt "$(RECIPES)/requirements.txt"; }
	@"$(RECIPES)/bin/python" tests/recipes/run.py

lint: env  ## style, types and the direction of imports
	@$(RUN) ruff check .
	@$(RUN) mypy
	@.venv/bin/python -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-logo --no-cache

faults: env  ## record runs with planted faults (75, resumable) and print how many the rules find: ARGS
	@$(RUN) benchmarks.planted_faults $(ARGS)

PEERS := build/peers

# Their environment has its own torch; DI-engine, LightZero and this package come from .venv behind it.
peers: env  ## what LightZero's method, wandb.watch, Lightning and Composer cost on the same learner step: ARGS
	@cmp -s benchmarks/peers_requirements.txt "$(PEERS)/requirements.txt" || { \
	    rm -rf "$(PEERS)" && .venv/bin/python -m venv "$(PEERS)" && \
	    "$(PEERS)/bin/python" -m pip install -q --disable-pip-version-check -r benchmarks/peers_requirements.txt \
	        $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") && \
	    for name in purelib platlib; do \
	        .venv/bin/python -c "import sysconfig; print(sysconfig.get_path('$$name'))"; \
	    done > "$$("$(PEERS)/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")/project.pth" && \
	    cp benchmarks/peers_requirements.txt "$(PEERS)/requirements.txt"; }
	@PYTHONPATH="$(CURDIR)" "$(PEERS)/bin/python" benchmarks/peers.py $(ARGS)

docs: env  ## the documentation, as pages in build/docs; a warning is an error
	@$(RUN) sphinx -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

clean:  ## remove what builds and tests leave behind; runs/ and .venv stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
