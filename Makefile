# Everything a newcomer needs: `make demo` and `make test`. Both install on first use.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A folder of wheels that pip is configured with, if any; empty on most machines.
WHEELS := $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null || echo "$$PIP_FIND_LINKS")
# TORCH=cpu asks for PyTorch's CPU build where no such folder exists (the default build brings CUDA).
TORCH ?=
UV_FLAGS := --compile-bytecode -c constraints.txt $(if $(WHEELS),--find-links $(WHEELS)) $(if $(and $(TORCH),$(if $(WHEELS),,x)),--torch-backend $(TORCH))
SEED ?= 0

.PHONY: setup demo demo-short paper real test check format bench campaign test-server wheel-test docs clean
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(UV_FLAGS) -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/aifeedback demo --seed $(SEED) -o runs/demo

demo-short: setup
	$(BIN)/aifeedback demo --short --seed $(SEED) -o runs/demo-short

# Every experiment of the paper on the lab, three training seeds, and the published tables beside it; rerun to resume.
paper: setup
	$(BIN)/aifeedback run paper --set seed=$(SEED) -o runs/paper
	$(BIN)/aifeedback report runs/paper --paper

# Pretrained models and real text: fetches 1.8 GB by hash and Debian's package descriptions, then runs the recipe (resumable).
real: setup
	$(BIN)/python examples/real/fetch.py runs/real-inputs/models
	test -s runs/real-inputs/data/test.jsonl || $(BIN)/python examples/real/summaries.py runs/real-inputs/data
	$(BIN)/aifeedback run examples/real/real.yaml --set seed=$(SEED) -o runs/real-$(SEED)

test: setup
	$(BIN)/pytest -n 2 --dist loadfile -m 'not campaign and not server and not slow'

check: setup
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/pyright
	$(BIN)/lint-imports

# Against a third-party server: llama.cpp's, from prebuilt wheels. With the models of `make real` where they are here.
test-server: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(UV_FLAGS) xllamacpp
	$(BIN)/pytest -m server -s

# The built wheel in an environment of its own: first without any extra, then with `local`. About three minutes.
wheel-test: setup
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/uv build --quiet --wheel $(if $(WHEELS),--find-links $(WHEELS)) -o build/wheel
	$(PYTHON) -m venv build/wheel/env
	$(BIN)/uv pip install --quiet --python build/wheel/env/bin/python $(UV_FLAGS) build/wheel/*.whl
	$(PYTHON) tests/wheel/check.py base build/wheel/env/bin
	wheel=$$(echo build/wheel/*.whl) && $(BIN)/uv pip install --quiet --python build/wheel/env/bin/python $(UV_FLAGS) "$$wheel[local]"
	$(PYTHON) tests/wheel/check.py local build/wheel/env/bin

# Full-size versions of the reliability and coverage measurements; hours.
campaign: setup
	$(BIN)/pytest -m campaign

# Side by side with the named peers, interleaved; prints ratios.
bench: setup
	for file in bench/*.py; do $(BIN)/python $$file || exit 1; done

# The documentation site, in site/index.html. A broken link or an unknown module fails the build.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: setup
	$(BIN)/ruff format src tests bench
	$(BIN)/ruff check --fix src tests bench

clean:
	rm -rf $(VENV) runs site
