# make demo and make test do all set-up themselves. PYTHON picks the interpreter (3.10 to 3.13).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SOURCES := $(wildcard runtime/_*.p* toolkit/qua*/*.[chp]* runtime/engine/*.[ch] runtime/engine/*/*.[ch] runtime/host/*.[ch]) setup.py pyproject.toml

.PHONY: demo test check lint size hil-all packages clean

demo: $(VENV)/.installed
	$(BIN)/qedge demo

test: packages lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The quick gate while working: everything but emulated machines and the real model.
check: packages lint
	$(BIN)/python -m pytest tests/unit

# What needs no run: style, types, spelling, and what a reader of C sees.
ROOMS := bench boards docs examples firmware package runtime tests toolkit
C_FILES = $(shell find $(ROOMS) -name '*.[ch]' ! -name unicode.c ! -name '_*.c')
lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)
	$(BIN)/mdformat --check *.md $(ROOMS)
	$(BIN)/codespell *.md Makefile *.py *.toml $(ROOMS)
	cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,performance,portability \
	    --inline-suppr --suppress=shiftTooManyBitsSigned --suppress=toomanyconfigs --suppress=comparePointers \
	    -Iruntime -Ifirmware runtime/engine runtime/host firmware $(wildcard toolkit/quant/tile*.c) \
	    $(wildcard toolkit/quant/search*.c) toolkit/quality/rows.c

# Flash, RAM and stack of every firmware against firmware/sizes.toml; UPDATE=1 writes it anew.
size: packages $(VENV)/.tested
	$(BIN)/python tests/support/size_table.py $(if $(UPDATE),--update)

# Every board that can be emulated here, one after the other, and a power cut at every step: long.
LINUX_BOARDS := virt-a53 virt-a72 virt-a76 raspi3b
BARE_BOARDS := pico mps2-m3 mps2-m4 mps2-m7 mps3-m55
hil-all: packages $(VENV)/.tested
	for board in $(LINUX_BOARDS) $(BARE_BOARDS); do \
	    $(BIN)/python -m pytest tests/any_board --board $$board || exit 1; done
	for board in $(LINUX_BOARDS); do \
	    $(BIN)/python -m pytest tests/linux --board $$board || exit 1; done
	$(BIN)/python -m pytest tests/linux/test_power_cut.py -s --all-cuts

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
	rm -rf $(VENV) build *.egg-info runtime/_engine.c toolkit/quant/_tiles.c toolkit/quant/_search.c \
	    toolkit/quality/_rows.c */*.so */*/*.so
