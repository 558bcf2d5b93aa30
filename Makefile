# make help lists what there is. Everything happens in .venv, made with the first Python found that is new enough:
# `make PYTHON=/path/to/python3.12 test` takes another one.

PYTHON ?=
PYTHONS = $(PYTHON) python3 python3.13 python3.12 python3.11
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Half of what a test takes is waiting for programs that it started, so more tests than CPUs run at once.
AT_ONCE := -n $(shell expr $$(nproc 2>/dev/null || echo 2) \* 3 / 2) --maxprocesses 24 --dist worksteal
EXAMPLE := $(VENV)/examples/bin/python examples
TORCH ?= torch
LEROBOT := 'lerobot>=0.4.4' 'av<16' click gymnasium psutil
ISAACLAB := warp-lang==1.17.0 'moviepy<2' lazy_loader scipy requests gymnasium psutil click
GRAPHICS := libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libgles2 libopengl0
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
BROWSER := chromium ffmpeg
HAS_GRAPHICS := import ctypes; [ctypes.CDLL(name) for name in ("libEGL.so.1", "libGL.so.1", "libOpenGL.so.0")]

# setuptools warns of every editable installation that folders could shadow it; quiet should be quiet.
INSTALL = PYTHONWARNINGS=ignore::UserWarning $(BIN)/python -m pip install --quiet --editable

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-integrations examples lint format types check faults
.PHONY: bench bench-peers lerobot isaaclab install graphics browser wheel clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: graphics $(VENV)/installed-newton ## Train a small policy on a Newton simulation and record it (ARGS="--help" for more)
	$(BIN)/stepreel demo $(ARGS)

test: graphics browser $(VENV)/installed-dev ## Run the tests (ARGS="-k name" and the like go to pytest)
	$(BIN)/python -m pytest $(AT_ONCE) $(ARGS)

check: lint types test ## All of it: lint, types and tests

lint: $(VENV)/installed-dev ## Look for mistakes, formatting and wrong imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

format: $(VENV)/installed-dev ## Format the code, and mend what can be mended without thought
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/installed-dev ## Check the types of the package and of its tests
	$(BIN)/mypy

bench: graphics $(VENV)/installed-dev ## Measure what recording costs the training thread
	$(BIN)/python -m pytest benchmarks --benchmark-only --timeout 0 $(ARGS)

bench-peers: $(VENV)/peers/installed lerobot isaaclab ## Compare with other recorders, for most of an hour (ARGS="--help" for less)
	cd benchmarks && $(abspath $(VENV))/peers/bin/python -m peers measure $(ARGS)

faults: graphics $(VENV)/installed-dev ## Kill, fill, freeze and break things while recording (ARGS="--help" for less)
	$(BIN)/python -m tests.faults $(ARGS)

test-integrations: $(VENV)/integrations/installed ## Test hooks and wrappers against the libraries they work with
	$(VENV)/integrations/bin/python -m pytest -m integrations tests/integrations tests/backends/isaaclab/test_sensor.py $(ARGS)

examples: graphics $(VENV)/examples/installed ## Run the examples, shortened; their clips go to logs/examples
	$(EXAMPLE)/async_training.py --video --steps 20000 --video_interval 8000 --queue_bytes 1000000000 \
	  --log_dir logs/examples/async_training
	$(EXAMPLE)/cleanrl_ppo.py --capture_video --total_timesteps 8192 --video_folder logs/examples/cleanrl_ppo/videos
	$(EXAMPLE)/newton_ars.py --video --iterations 11 --frame_stride 3 --log_dir logs/examples/newton_ars
	$(EXAMPLE)/mujoco_ant.py --attempts 20 --output-dir logs/examples/mujoco_ant
	$(EXAMPLE)/sb3_ppo.py --timesteps 8192 --video_interval 1000 --video_folder logs/examples/sb3_ppo/videos

install: $(VENV)/installed-dev ## Make .venv, with everything needed to work on stepreel

wheel: $(VENV)/installed-dev ## Build dist/*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## Remove .venv, caches and what was built; recordings stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .import_linter_cache
	find app tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp for each set of extras: a second run does nothing, and a changed pyproject.toml installs again.
$(VENV)/installed-newton: pyproject.toml | $(BIN)/pip
	@if [ $(VENV)/installed-dev -nt pyproject.toml ]; then touch $@; else \
	  echo "Installing stepreel and Newton into $(VENV): some 300 MB the first time, a minute or two."; \
	  $(INSTALL) '.[newton]' && touch $@; fi

$(VENV)/installed-dev: pyproject.toml | $(BIN)/pip
	@echo "Installing stepreel and what its tests need into $(VENV): some 400 MB the first time, a minute or two."
	@$(INSTALL) '.[dev]'
	@touch $@

# The other recorders have an environment of their own, because their pins would turn the package's dependencies back.
$(VENV)/peers/installed: pyproject.toml | $(BIN)/pip
	@echo "Installing the recorders to compare with into $(VENV)/peers: some 800 MB the first time, more with CUDA."
	@$(BIN)/python -m venv $(VENV)/peers
	@$(VENV)/peers/bin/python -m pip install --quiet $(TORCH)
	@PYTHONWARNINGS=ignore::UserWarning $(VENV)/peers/bin/python -m pip install --quiet --editable '.[bench]'
	@touch $@

# What hooks and wrappers work with is big, and pins what the package does not.
$(VENV)/integrations/installed: pyproject.toml | $(BIN)/pip
	@echo "Installing torch, stable-baselines3, wandb, MLflow, TensorBoard, Rerun into $(VENV)/integrations: 1 GB or more."
	@$(BIN)/python -m venv $(VENV)/integrations
	@$(VENV)/integrations/bin/python -m pip install --quiet $(TORCH)
	@PYTHONWARNINGS=ignore::UserWarning $(VENV)/integrations/bin/python -m pip install --quiet --editable '.[integrations]'
	@touch $@

$(VENV)/examples/installed: pyproject.toml | $(BIN)/pip
	@echo "Installing torch, stable-baselines3, Newton and MuJoCo into $(VENV)/examples: 1 GB or more."
	@$(BIN)/python -m venv $(VENV)/examples
	@$(VENV)/examples/bin/python -m pip install --quiet $(TORCH)
	@PYTHONWARNINGS=ignore::UserWarning $(VENV)/examples/bin/python -m pip install --quiet --editable '.[examples]'
	@touch $@

# LeRobot needs an older PyAV than stepreel. It is one of many: where it can't be had, the others are compared.
lerobot: | $(BIN)/pip
	@[ -e $(VENV)/lerobot/installed ] || { \
	  echo "Installing LeRobot into $(VENV)/lerobot: several GB."; \
	  $(BIN)/python -m venv $(VENV)/lerobot \
	    && $(VENV)/lerobot/bin/python -m pip install --quiet $(TORCH) \
	    && $(VENV)/lerobot/bin/python -m pip install --quiet $(LEROBOT) \
	    && touch $(VENV)/lerobot/installed; \
	} || echo "LeRobot could not be installed: it is left out of the comparison."

# Isaac Lab 3.0 needs Python 3.12. Of what it depends on, its recorder imports this; all of it would be some 8 GB.
isaaclab: | $(BIN)/pip
	@[ -e $(VENV)/isaaclab/installed ] || { \
	  for python in $(PYTHON) python3.12 python3; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then break; fi; python=; \
	  done; \
	  echo "Installing Isaac Lab's recorder into $(VENV)/isaaclab: several GB."; \
	  [ -n "$$python" ] \
	    && $$python -m venv $(VENV)/isaaclab \
	    && $(VENV)/isaaclab/bin/python -m pip install --quiet $(TORCH) $(ISAACLAB) \
	    && $(VENV)/isaaclab/bin/python -m pip install --quiet --no-deps isaaclab==3.0.0 \
	    && touch $(VENV)/isaaclab/installed; \
	} || echo "Isaac Lab could not be installed, which needs Python 3.12: it is left out of the comparison."

# Debian and Ubuntu ship Python without ensurepip, in a package of its own: get it where that is allowed.
$(BIN)/pip:
	@found=; \
	for python in $(PYTHONS); do \
	  if $$python -c '$(NEW_ENOUGH)' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "stepreel needs Python 3.11 or newer, and none of these is: $(strip $(PYTHONS))."; \
	  echo "Install one, or name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; \
	fi >&2; \
	if ! $$found -c 'import ensurepip' 2>/dev/null; then \
	  package=$$($$found -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	  echo "$$found comes without ensurepip, which makes $(VENV): apt-get install $$package"; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$$package"; \
	  else exit 1; fi; \
	fi >&2; \
	echo "Making $(VENV) with $$($$found --version)."; \
	$$found -m venv --clear $(VENV)

# Newton's viewer draws without a window through EGL; without it the Warp ray tracer draws, so nothing here is fatal.
graphics: | $(BIN)/pip
	@$(BIN)/python -c '$(HAS_GRAPHICS)' 2>/dev/null || { \
	  echo "The libraries for drawing without a window (EGL) are missing."; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(GRAPHICS); \
	  then echo "Installed them: $(GRAPHICS)"; \
	  else \
	    echo "Install them for faster and better pictures: sudo apt-get install $(GRAPHICS)"; \
	    echo "Going on without: Newton simulations are drawn by the Warp ray tracer."; \
	  fi; }

# The gallery's page is tested in a real browser; without one those tests fail.
browser:
	@{ command -v chromium || command -v google-chrome; } >/dev/null && command -v ffprobe >/dev/null || { \
	  echo "A browser for the tests of the gallery is missing, or the ffprobe program to look at files with."; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(BROWSER); \
	  then echo "Installed them: $(BROWSER)"; \
	  else echo "Install them: sudo apt-get install $(BROWSER)"; fi; }
