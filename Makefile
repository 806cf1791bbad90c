# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
# For a machine without a ROS install. `make demo` and `make test` set up all they need in .venv; on a machine with
# ROS use colcon (docs/how-to/install.md).

PYTHON ?=
VENV ?= $(CURDIR)/.venv
TRAIN ?= 1
INPUT ?=
MODEL ?=
TEACHER ?=
PYTEST_ARGS ?=

override VENV := $(abspath $(VENV))
VENV_PYTHON := $(VENV)/bin/python

# The recipes see these as variables of the shell, so that no value is ever read as part of a command.
export INPUT MODEL TEACHER VENV PYTHON

# Nothing of a sourced ROS install or of another environment may leak in; see tools/make_env.py.
unexport PYTHONPATH PYTHONHOME LD_LIBRARY_PATH VIRTUAL_ENV CMAKE_PREFIX_PATH COLCON_PREFIX_PATH RMW_IMPLEMENTATION
unexport ROS_VERSION ROS_PYTHON_VERSION _ROS_WHEELS_BOOTSTRAP_COMPLETE
export AMENT_PREFIX_PATH := $(VENV)
export ROS_DISTRO := jazzy

MAKE_ENV = python=$$(tools/find_python.sh "$$PYTHON" "$$VENV") && "$$python" tools/make_env.py --venv "$$VENV"
# A single test that hangs is ended by this, whatever limits it sets itself.
# Two files at a time: most of a test with real processes is waiting for them, and two cores are the least there are.
PYTEST = "$$VENV/bin/python" -m pytest --timeout=300 -n 2 --dist loadfile $(PYTEST_ARGS)
# The style is among the slow ones: `make lint` has it alone.
SLOW_TESTS = $(wildcard test/integration test/launch test/training test/test_lint.py)
FAST_TESTS = $(PYTEST) $(addprefix --ignore=,$(SLOW_TESTS)) test

.PHONY: help demo test env env-train test-fast test-integration lint params docs docs-check clean distclean
.DEFAULT_GOAL := help

help: ## list these targets
	@echo 'make demo [INPUT=folder|video|bag]   student, fallback and teacher over DDS; results in build/demo'
	@echo '          [MODEL=student|teacher]    one of the models alone'
	@echo '          [TEACHER=file]             a detector of your own as the teacher'
	@echo 'make test [TRAIN=0]                  all tests; TRAIN=0 neither installs PyTorch nor runs what needs it'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo
	@echo '  PYTHON=python3.12   the interpreter of the environment (3.10 to 3.14)'
	@echo '  VENV=folder         where the environment lies (.venv)'

demo: env ## the hybrid over DDS; overview.png, timeline.png, detections.mcap, summary.json
	@"$$VENV/bin/python" -m kd_perception demo $${INPUT:+--input "$$INPUT"} $${MODEL:+--model "$$MODEL"} \
		$${TEACHER:+--teacher "$$TEACHER"} --out build/demo

# Both parts run, whatever the first one says. pytest's code 5, no test collected, is a failure too.
test: env $(if $(filter 0,$(TRAIN)),,env-train) ## all tests: first the fast ones, then those that need ROS or torch
	@status=0; $(FAST_TESTS) || status=$$?; $(PYTEST) $(SLOW_TESTS) || status=$$?; exit $$status

test-fast: env ## the tests that need neither ROS nor torch, without the style
	@$(FAST_TESTS)

test-integration: env ## real processes over DDS
	@$(PYTEST) test/integration

env: ## the environment: locked wheels, vision_msgs, this package
	@$(MAKE_ENV)

env-train: ## the environment, with PyTorch
	@$(MAKE_ENV) --train

lint: env ## ruff and mypy; `.venv/bin/ruff check --fix` sorts imports
	@"$$VENV/bin/python" -m ruff check && "$$VENV/bin/python" -m mypy

params: env ## config/*.yaml and the tables of docs/reference, from the parameter tables
	@"$$VENV/bin/python" tools/parameter_files.py

docs: ## the documentation as web pages: build/docs/index.html; needs Sphinx, which it installs
	@$(MAKE_ENV) --docs
	@"$$VENV/bin/python" -m sphinx -W --keep-going -q docs build/docs

docs-check: env ## links, commands and line widths of the documentation; runs the blocks that are marked
	@"$$VENV/bin/python" tools/docs_check.py --run

clean: ## remove what was built, but for the environment
	rm -rf build install log dist .pytest_cache .hypothesis kd_perception.egg-info

distclean: clean ## remove the environment too
	rm -rf "$$VENV" "$$VENV.lock"
