# make demo and make test do all set-up themselves. PYTHON picks the interpreter (3.10 to 3.13).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SOURCES := $(wildcard */_*.pyx toolkit/*.[ch] runtime/engine/*.[ch] runtime/host/*.[ch]) setup.py pyproject.toml

.PHONY: demo test check install packages bench clean

demo: $(VENV)/.installed
	$(BIN)/qedge demo

test: packages $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

# The quick gate while working: everything but emulated machines and the real model.
check: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/python -m pytest tests/unit

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.tested: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,hub]'
	touch $@ $(VENV)/.installed

packages:
	@sh tests/packages.sh

clean:
	rm -rf $(VENV) build *.egg-info runtime/_engine.c toolkit/_tiles.c */*.so
