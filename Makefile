# A clone needs Python >= 3.11 and make; every target sets up what it needs in .venv and does that once.

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python

unexport PYTHONDONTWRITEBYTECODE  # dozens of tests start an interpreter, which would compile what it imports

.PHONY: demo test lint bench clean

demo: $(VENV)/.demo
	$(RUN) examples/digits.py

test: $(VENV)/.test
	MALLOC_PERTURB_=165 $(RUN) -m pytest -n 2 --dist worksteal -q  # fresh memory holds no zeros by chance

lint: $(VENV)/.lint
	$(RUN) -m ruff check .
	$(RUN) -m mypy

# `make bench WORKLOADS=mlp,xent SIZES=S FRAMEWORKS=tapefuse,jax` measures a part; with KEEP=1 docs/performance.md has it.
BENCH = $(if $(WORKLOADS),--workloads $(WORKLOADS)) $(if $(SIZES),--sizes $(SIZES)) \
	$(if $(FRAMEWORKS),--frameworks $(FRAMEWORKS)) $(if $(KEEP),--keep)

bench: $(VENV)/.bench
	$(RUN) -m benchmarks.peers
	$(RUN) -m benchmarks.run $(BENCH)

clean:
	rm -rf $(VENV) benchmarks/.venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "tapefuse needs Python >= 3.11; use make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# Most modules of what is installed are never imported; those that are, are compiled then.
INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check --no-compile

$(VENV)/.demo: pyproject.toml | $(RUN)
	$(INSTALL) --editable '.[examples]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(RUN)
	$(INSTALL) --editable '.[test,examples]'
	@touch $@

$(VENV)/.lint: pyproject.toml | $(RUN)
	$(INSTALL) --editable '.[lint]'
	@touch $@

$(VENV)/.bench: pyproject.toml | $(RUN)
	$(INSTALL) --editable '.[examples]'
	@touch $@
