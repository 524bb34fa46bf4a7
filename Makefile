# Every target builds .venv by itself from constraints.txt; nothing else has to be installed first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two cores: two test workers, one thread each, so that the workers do not fight for them.
WORKERS ?= 2

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

# `make fast` is for a desk: everything but the tests under these markers (pyproject.toml).
NOT_FAST := slow or engines or kills or demo or chromium
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: install fast test attack lint docs gallery wheel hooks demo bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

fast: $(STAMP)
	$(PYTEST) -m "not ($(NOT_FAST))"

test: $(STAMP)
	$(PYTEST)

# What tests/attack tries in `make test`, twenty times over.
attack: $(STAMP)
	OMP_NUM_THREADS=1 TRL_RSA_ATTACK=20 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q tests/attack

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

# Links, anchors, plans and code in the documentation; then the site, in build/site. Its tools are installed only here:
# `make test` does not need them.
docs: $(VENV)/.docs
	$(BIN)/python -m pytest -p no:xdist -q --durations=0 --durations-min=1 tests/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Report pages of small runs, and the site with them. What is finished is not run again. ARGS: --real FOLDER
gallery: $(VENV)/.docs
	PYTHONPATH=. $(BIN)/python docs/site/gallery.py $(ARGS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

# A wheel in dist/, with everything in it that the package reads.
wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# The checks of `make lint` before every commit.
hooks: $(STAMP)
	$(BIN)/pre-commit install

demo: $(STAMP)
	$(BIN)/trl-rsa demo

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run

# Without DATA the public sets are taken from the Hub. ARGS: --quick, --plan, --seeds 0, --ablate ties, …
.PHONY: real
real: $(STAMP)
	$(if $(DATA),,HF_HUB_OFFLINE=0) $(BIN)/python -m benchmarks.real $(if $(DATA),--data $(DATA)) $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info
