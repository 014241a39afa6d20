# Two commands: `make figures` and `make test`. Each sets up .venv by itself.
#   PYTHON=python3.12 make test    another interpreter (3.11 or newer)
#   TORCH=cpu make test            the CPU build of torch, where the default would be CUDA's (also cu130, ...)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH ?=
TORCH_INDEX := $(if $(TORCH),--index-url https://download.pytorch.org/whl/$(TORCH))

.PHONY: figures test lint clean
.DELETE_ON_ERROR:

figures: $(READY)
	$(BIN)/workbench run --all --profile quick
	$(BIN)/workbench figure --all --from quick

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n auto

lint: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' on the PATH: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than 3.11: name a newer one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) has no venv module: install it (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt $(TORCH_INDEX)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $(READY)
