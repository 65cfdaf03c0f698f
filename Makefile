# make demo       set up, then train FedAvg and FedKPer on sites with skewed labels in NVFlare's simulator and print the
#                 results (METHOD=fedkper, fedprox, fedgpl or fedkim)
# make federation set up, then the same job in a real federation on this machine: mutual TLS, every hospital its own
#                 process and policies; ends with the report (METHOD=fedkper, fedavg, fedprox, fedgpl,
#                 fedgpl-segmentation or fedkim)
# make test       set up, then run the tests, three at a time (WORKERS=3): 16 minutes on 2 cores
# make test-fast  the tests that take no process of NVFlare's and no long: 3 minutes on 2 cores
# make test-long  the rest: further cases with real processes of what make test covers
# make check      formatting, lint, types, layers and words
# make jobs       write jobs/ anew from their studies
# make setup      the virtual environment only; make clean removes it

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
METHOD ?= fedkper
# More than the two cores of a small machine, as NVFlare's processes wait much of their time.
WORKERS ?= 3
# The tests of a file share fixtures, and the files with real processes come first: see tests/conftest.py.
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

export OMP_NUM_THREADS ?= 1
# The tests start hundreds of Python processes: what is compiled once is kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo federation test test-fast test-long check format jobs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Consilia needs Python 3.11 or later, found " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
ifeq ($(METHOD),fedgpl)
	$(BIN)/consilia compare fedgpl-classification --engine sim --out runs/demo-fedgpl-classification \
		--only fedgpl --only fedavg --only majority
	$(BIN)/consilia compare fedgpl-segmentation --engine sim --out runs/demo-fedgpl-segmentation \
		--only fedgpl --only fedavg --only filled-box
else ifeq ($(METHOD),fedkim)
	$(BIN)/consilia compare fedkim --engine sim --out runs/demo-fedkim --only fedkim --only public-only
else
	$(BIN)/consilia compare label-skew --engine sim --out runs/demo-$(METHOD) \
		--only fedavg --only $(METHOD) --only centralised --only local-only --only majority
endif

federation: setup
	$(BIN)/python -m poc --method $(METHOD)

test: setup
	$(BIN)/pytest -m 'not long' $(PARALLEL)

test-fast: setup
	$(BIN)/pytest -m 'not sim and not deploy and not slow and not long' $(PARALLEL)

test-long: setup
	$(BIN)/pytest -m long $(PARALLEL)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -q tests/test_words.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

jobs: setup
	$(BIN)/python -m consilia.study.jobs jobs

clean:
	rm -rf $(VENV) build *.egg-info custom/*.egg-info
