# Every target sets up what it needs, in a virtual environment of its own (.venv), from Python 3.11+ and make alone.
#
#   make demo              made-up pets, shards, training, evaluation, pictures: under five minutes on two cores
#   make demo PETS=DIR     the same on a dataset in the official layout
#   make test              the tests              make check    ruff, formatting, types
#   make test-faults       the fault tests as long campaigns (kills, flipped bits)
#   make bench             all benchmarks         make peers    what other loaders to measure beside
#   make clean             removes what the targets made, the environment too
#   make bench-compare     ten tries: is a planted handicap found, are two runs of the same thing called the same?

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := demo
PETS   ?=
# As many epochs as two cores take for three or four minutes: of 168 made-up pictures, or of the 300 or so of a small real
# set. A bigger dataset takes longer in proportion: lower it there, or be patient.
# The narrow network is twice as fast as the default and enough for so few pictures.
DEMO_EPOCHS  ?= $(if $(PETS),20,40)
DEMO_OPTIONS ?= --widths 16,32,64,128,192 --augment train --epochs $(DEMO_EPOCHS)
BENCH  := bench-results
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
JOBS   ?= 2

.DEFAULT_GOAL := help
.PHONY: help install peers bench-compare demo test test-faults check format bench bench-figures bench-compare clean

help:
	@sed -n '3,8p' Makefile | sed 's/^# *//'

# The stamps make the installation run once, and again when what is installed changes.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/.installed

# Everything the demo makes stands in $(DEMO); it starts from nothing each time.
demo: $(VENV)/.installed
	rm -rf $(DEMO) && mkdir $(DEMO)
	$(if $(PETS),,$(BIN)/petseg-shard sample $(DEMO)/pets --count 240)
	$(BIN)/petseg-shard build $(or $(PETS),$(DEMO)/pets) $(DEMO)/shards --split random --fractions 0.7,0.1,0.2
	$(BIN)/petseg-shard preview $(DEMO)/shards $(DEMO)/shards.png
	$(BIN)/petseg-train --shards $(DEMO)/shards --run $(DEMO)/run $(DEMO_OPTIONS)
	$(BIN)/petseg-eval $(DEMO)/run --shards $(DEMO)/shards
	@echo
	@echo "The pictures: $(DEMO)/shards.png      what was packed"
	@echo "              $(DEMO)/run/gallery.png what the network sees in pictures it was not trained on"
	@echo "              $(DEMO)/run/curves.png  how it learned"
	@echo "              $(DEMO)/run/report.html all of it on one page"

# Two at a time: most tests use one core, and the slowest wait for processes of their own.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-faults: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m faults --campaign --timeout 7200

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Everything that docs/performance.md shows; wants a machine that does nothing else. Its time: docs/performance.md.
# `make bench PETS=DIR` measures on a real dataset. Then: make bench-figures puts the results into the documents.
bench: $(VENV)/.installed
	mkdir -p $(BENCH)
	$(if $(PETS),,test -d $(BENCH)/pets || $(BIN)/petseg-shard sample $(BENCH)/pets --count 480)
	$(BIN)/petseg-shard build $(BENCH_PETS) $(BENCH)/shards --split random --fractions 0.5,0.5,0 \
	    --samples-per-shard 60 --overwrite
	$(BIN)/petseg-bench loader --shards $(BENCH)/shards $(call OUTPUTS,loader)
	$(BIN)/petseg-bench loader --shards $(BENCH)/shards $(call OUTPUTS,cold) --cache cold --augment none --starts 0 --soak 0 \
	    --storages source --peers petseg,tutorial,tuned,webdataset
	$(BIN)/petseg-bench train --shards $(BENCH)/shards $(call OUTPUTS,train) --models unet
	$(BIN)/petseg-bench train --shards $(BENCH)/shards $(call OUTPUTS,consumer) --consumer-rate 2000 \
	    --storages source,raw --peers petseg,tutorial,tuned --seconds 1 --repeats 3
	$(BIN)/petseg-bench build $(BENCH_PETS) $(call OUTPUTS,build)

# The loaders to measure beside. Streaming asks for older numpy and xxhash, without need, and for five clouds' clients: it is
# installed without what it asks for. FFCV is compiled, against packages of the system (docs/performance.md).
peers: $(VENV)/.installed
	$(PIP) -c constraints.txt litdata spdl cython pybind11 setuptools wheel \
	    Brotli catalogue python-snappy transformers xxhash zstd
	$(PIP) --no-deps -c constraints.txt mosaicml-streaming
	$(PIP) -c constraints.txt --no-build-isolation ffcv || echo "FFCV could not be compiled: see docs/performance.md"

bench-figures:
	$(BIN)/petseg-bench figures $(foreach name,loader cold train consumer build,$(BENCH)/$(name).json) \
	    --into README.md --into docs/performance.md --plot docs/loader.svg

# Wants a machine that does nothing else, for a quarter of an hour.
bench-compare: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/bench/test_bench_commands.py -k handicap --campaign --timeout 7200

BENCH_PETS = $(or $(PETS),$(BENCH)/pets)
OUTPUTS = --json $(BENCH)/$(1).json --page $(BENCH)/$(1).html --plot $(BENCH)/$(1).svg

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
