# Every target sets up what it needs in its own virtual environment (.venv), with nothing but Python 3.11+ and make.
#
#   make demo              synthetic pets, shards, training, evaluation, figures: under five minutes on two cores
#   make demo PETS=DIR     the same with a dataset in the official layout
#   make test              the tests              make check          ruff, formatting, types
#   make test-faults       the fault tests as long campaigns (kills, flipped bits)
#   make check-versions    the tests with the lowest and with the highest versions that pyproject.toml allows
#   make bench             all benchmarks         make bench-figures  their figures go into README.md and docs/
#   make bench-compare     ten trials: does compare find a planted handicap, and no change between equal runs?
#   make gpu-proof         everything that needs a GPU, on one GPU in nine minutes: tests, trainings, benchmarks
#   make gpu-figures       its figures go into README.md and docs/gpu.md
#   make peers             installs the other loaders that the benchmarks compare with
#   make clean             removes what the targets made, including the environment

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := demo
PETS   ?=
# As many epochs as two cores train in three or four minutes, on 168 synthetic images or on the 300 or so of a small real
# dataset. A larger dataset takes proportionally longer: lower the number, or be patient.
# The narrow network is twice as fast as the default and large enough for so few images.
DEMO_EPOCHS  ?= $(if $(PETS),20,40)
DEMO_OPTIONS ?= --widths 16,32,64,128,192 --augment train --epochs $(DEMO_EPOCHS)
BENCH  := bench-results
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
JOBS   ?= 2
# Without byte code, each process that imports torch compiles it anew, in four seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install install-dev peers demo test test-faults check check-versions check-versions-again format bench bench-figures bench-compare gpu-proof gpu-figures clean

help:
	@sed -n '3,13p' Makefile | sed 's/^# *//'

# With the stamp files, installation runs once, and again when the dependencies change. The tests' environment contains
# the users', so that it is one installation. uv installs in a fraction of pip's time; pip does it where uv is not to be had
# or fails, as where a mirror is named in pip's settings alone. Byte code is written when a module is first imported: of the
# ten thousand files that pip would compile, most are never used.
packages = $(PIP) -c constraints.txt uv && $(BIN)/python -m uv pip install --quiet --python $(BIN)/python \
    -c constraints.txt $(1) \
    || $(PIP) --no-compile -c constraints.txt $(1)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call packages,-e .)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call packages,-e '.[dev]')
	@touch $(VENV)/.installed $@

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

# The demo writes everything to $(DEMO) and starts from scratch each time.
demo: $(VENV)/.installed
	rm -rf $(DEMO) && mkdir $(DEMO)
	$(if $(PETS),,$(BIN)/petseg-shard sample $(DEMO)/pets --count 240)
	$(BIN)/petseg-shard build $(or $(PETS),$(DEMO)/pets) $(DEMO)/shards --split random --fractions 0.7,0.1,0.2
	$(BIN)/petseg-shard preview $(DEMO)/shards $(DEMO)/shards.png
	$(BIN)/petseg-train --shards $(DEMO)/shards --run $(DEMO)/run $(DEMO_OPTIONS)
	$(BIN)/petseg-eval $(DEMO)/run --shards $(DEMO)/shards
	@echo
	@echo "Look at: $(DEMO)/shards.png      what was packed"
	@echo "         $(DEMO)/run/gallery.png predictions for images that the network was not trained on"
	@echo "         $(DEMO)/run/curves.png  losses and scores over the epochs"
	@echo "         $(DEMO)/run/report.html everything on one page"

# Two workers by default: most tests use one core, and the slowest wait for subprocesses.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-faults: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m faults --campaign --timeout 7200

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Some ten minutes each, with two idle cores, and 7.5 GB of packages each. All tests but those of GPUs; what has passed with these
# sources is kept, so that it goes on where it was broken off. `make check-versions-again` takes the versions of that day.
# uv fetches a Python that is not there; a path can be given. Only wheels: DALI's older versions are on PyPI as a program
# that fails.
VERSIONS := .versions
UV       := $(VERSIONS)/uv/bin/uv
LOWEST_PYTHON  ?= 3.11
HIGHEST_PYTHON ?= 3.13
ENDS     := $(VERSIONS)/lowest-direct $(VERSIONS)/highest
$(VERSIONS)/lowest-direct/.installed: FROM := $(LOWEST_PYTHON)
$(VERSIONS)/highest/.installed: FROM := $(HIGHEST_PYTHON)

check-versions: $(addsuffix /.installed,$(ENDS))
	for end in $(ENDS); do PYTHONPATH="$(CURDIR)/tests/helpers" $$end/bin/python -m pytest -n $(JOBS) --dist worksteal \
	    -m "not gpu" -p tested_before --outcomes=$$end.jsonl $(TESTS); done
	$(VERSIONS)/highest/bin/python tests/helpers/tested_before.py $(addsuffix .jsonl,$(ENDS))

check-versions-again:
	rm -rf $(VERSIONS)
	$(MAKE) check-versions

$(UV):
	$(PYTHON) -m venv $(VERSIONS)/uv
	$(VERSIONS)/uv/bin/python -m pip install --quiet uv

$(VERSIONS)/%/.installed: pyproject.toml | $(UV)
	$(UV) pip compile --quiet --no-build --resolution $* --extra dev --python $(FROM) pyproject.toml -o $(VERSIONS)/$*.txt
	$(UV) venv --quiet --clear --python $(FROM) $(VERSIONS)/$*
	$(UV) pip install --quiet --no-build --python $(VERSIONS)/$*/bin/python -r $(VERSIONS)/$*.txt
	$(UV) pip install --quiet --no-deps --python $(VERSIONS)/$*/bin/python -e .
	@touch $@

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Everything that docs/performance.md shows, which also says how long it takes. Needs a machine that does nothing else.
# `make bench PETS=DIR` measures on a real dataset. `make bench-figures` then writes the results into the documents.
# Of the 478 good images of the sample, 256: eight full batches of 32, so that no loader pads or delivers a short batch.
# The tutorial reads the original files, as its users do; other loaders read what the shards hold.
bench: $(VENV)/.installed
	mkdir -p $(BENCH)
	$(if $(PETS),,test -d $(BENCH)/pets || $(BIN)/petseg-shard sample $(BENCH)/pets --count 480)
	$(BIN)/petseg-shard build $(BENCH_PETS) $(BENCH)/shards --split random --fractions 0.536,0.464,0 \
	    --samples-per-shard 64 --overwrite
	$(BIN)/petseg-bench loader --shards $(BENCH)/shards --source $(BENCH_PETS) --repeats $(REPEATS) \
	    $(call OUTPUTS,loader) --cache both
	$(BIN)/petseg-bench train --shards $(BENCH)/shards $(call OUTPUTS,train) --models unet --repeats $(REPEATS)
	$(BIN)/petseg-bench build $(BENCH_PETS) $(call OUTPUTS,build) --repeats $(REPEATS)
	$(MAKE) $(addprefix $(BENCH)/classes-,$(addsuffix .json,$(CLASSES)))

# What masks of N classes cost, one-hot and as class indices: petseg's loader alone, on synthetic images.
$(BENCH)/classes-%.json: $(VENV)/.installed FORCE
	mkdir -p $(BENCH) && rm -rf $(BENCH)/classes-$*
	$(BIN)/petseg-shard sample $(BENCH)/classes-$* --layout folders --classes $* --count 240
	$(BIN)/petseg-shard build $(BENCH)/classes-$* $(BENCH)/classes-$*-shards --labels $(BENCH)/classes-$*/labels.toml \
	    --storage raw --split random --fractions 1,0,0 --overwrite
	$(BIN)/petseg-bench loader --shards $(BENCH)/classes-$*-shards --json $@ --overwrite --augment none --peers petseg \
	    --workers 2 --repeats 2

FORCE:

# The loaders to compare with. Streaming requires older versions of numpy and xxhash than it needs, and the clients of five
# clouds, so it is installed without its dependencies. FFCV is compiled, against system packages (docs/performance.md).
peers: $(VENV)/.installed
	$(PIP) -c constraints.txt litdata spdl cython pybind11 setuptools wheel \
	    Brotli catalogue python-snappy transformers xxhash zstd
	$(PIP) --no-deps -c constraints.txt mosaicml-streaming
	$(PIP) -c constraints.txt --no-build-isolation ffcv || echo "FFCV could not be compiled: see docs/performance.md"

bench-figures:
	$(BIN)/petseg-bench figures \
	    $(foreach name,loader train build $(addprefix classes-,$(CLASSES)),$(BENCH)/$(name).json) \
	    --into README.md --into docs/performance.md --plot docs/loader.svg --overwrite

# Needs a machine that does nothing else, for a quarter of an hour.
bench-compare: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/bench/test_bench_commands.py -k handicap --campaign --timeout 7200

# On a machine without a GPU it says what it would do. `make gpu-figures` then writes the results into the documents.
gpu-proof: $(VENV)/.installed-dev
	@$(BIN)/python tests/gpu/gpu_proof.py --out gpu-proof

gpu-figures:
	$(BIN)/petseg-bench figures gpu-proof/gpu-loader.json gpu-proof/gpu-train.json --into docs/gpu.md --into README.md

BENCH_PETS = $(or $(PETS),$(BENCH)/pets)
# Some 14 minutes in all (docs/performance.md); `petseg-bench compare` needs 4 or more to report a change.
REPEATS ?= 3
CLASSES = 21 150
OUTPUTS = --json $(BENCH)/$(1).json --plot $(BENCH)/$(1).svg --overwrite

clean:
	rm -rf $(VENV) $(VERSIONS) $(DEMO) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
