# make demo       set up, then train FedAvg and FedKPer on sites with skewed labels in NVFlare's simulator and print the
#                 results (METHOD=fedkper, fedprox, fedgpl or fedkim)
# make federation set up, then the same job in a real federation on this machine: mutual TLS, every hospital its own
#                 process and policies; ends with the report (METHOD=fedkper, fedavg, fedprox, fedgpl,
#                 fedgpl-segmentation or fedkim)
# make test       set up, then run all tests, several at a time (about 30 minutes with WORKERS=2 on 2 cores); what fails
#                 is run once more, one at a time
# make test-fast  the tests without NVFlare's processes (about 2 minutes): for daily use
# make check      formatting, lint and types
# make jobs       write jobs/ anew from the recipes
# make setup      the virtual environment only; make clean removes it

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
METHOD ?= fedkper
WORKERS ?= 2

export OMP_NUM_THREADS ?= 1

.PHONY: setup demo federation test test-fast check format jobs clean

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
	$(BIN)/pytest -n $(WORKERS) --dist loadfile || { [ $$? -eq 1 ] && \
		echo "What failed is run once more, one at a time:" && $(BIN)/pytest --last-failed --last-failed-no-failures none; }

test-fast: setup
	$(BIN)/pytest -m 'not sim and not deploy and not slow'

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

jobs: setup
	$(BIN)/python -m consilia.recipes.jobs jobs

clean:
	rm -rf $(VENV) build *.egg-info custom/*.egg-info
