# make demo   train on digits with half of the labels permuted, and measure
# make test   everything that must hold
# make long   extended tests: more kills, more starts, complete recipes
# make lint   style
# make oldest the quick tests on the oldest versions that are supported
# make docs   the documentation, in build/site
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
READY = $(VENV)/.ready
OUT ?= runs/demo

.PHONY: demo test quick long oldest lint format docs clean

demo: $(READY)
	$(PY) -m experiments memorization --out=$(OUT)

# One thread for each worker: more would wait for each other. Of two cores a third
# worker takes what the others leave while they wait.
test: export OMP_NUM_THREADS = 1
test: $(READY)
	$(PY) -m pytest -n 3 --dist worksteal -m "not long"

quick: $(READY)
	$(PY) -m pytest -n 2 -m "not slow and not long"

long: export OMP_NUM_THREADS = 1
long: $(READY)
	$(PY) -m pytest -n 2 --dist worksteal -m long

# In an environment of its own, and not a part of CI.
oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-oldest/bin/python -m pip install -qq -c tests/oldest.txt ".[test]"
	$(VENV)-oldest/bin/python -m pytest -n 2 -m "not slow and not long"

lint: $(READY)
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

format: $(READY)
	$(PY) -m ruff check --fix . ; $(PY) -m ruff format .

# The theme would warn of MkDocs 2, which setup.py excludes.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.docs
	$(PY) -m mkdocs build --strict
	@echo "To read and search it: $(PY) -m http.server --directory build/site"

# Built once: a change of setup.py builds it again.
$(READY): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "geomem needs Python 3.11 or newer, and this is %s: name another \
	with make PYTHON=python3.12" % sys.version.split()[0] or 0)'
	@echo "Installing geomem, JAX and what else they need into $(VENV):" \
	  "about a minute, some 1.5 GB."
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install -qq --editable ".[test]"
	@touch $@

$(VENV)/.docs: $(READY)
	$(PY) -m pip install -qq --editable ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest build *.egg-info
