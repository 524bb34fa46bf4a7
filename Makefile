# Every target builds .venv by itself from constraints.txt; nothing else has to be installed first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two cores: two test workers, one thread each, so that the workers do not fight for them.
WORKERS ?= 2

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install test lint demo bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
