# The two commands: `make demo` and `make test`. Everything they need is installed by name.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# For the tests in an emulated machine; the kernels it boots are packages too (vmtest/kernels.py), not installed.
VM_PACKAGES := qemu-system-x86 busybox-static cpio kmod zstd gcc libc6-dev

# Needed to record (python3-bpfcc), to build (python3-dev) and, by the tests only, as oracle (linux-perf) and browser.
DEMO_PACKAGES := python3-bpfcc
INSTALL_TEST_PACKAGES := gcc-aarch64-linux-gnu libc6-dev-arm64-cross groff-base sudo systemd fish zsh
TEST_PACKAGES := $(DEMO_PACKAGES) chromium linux-perf trace-cmd bpftrace $(VM_PACKAGES) $(INSTALL_TEST_PACKAGES)

INSTALLED := $(VENV)/.installed
SOURCES   := setup.py pyproject.toml $(wildcard */*.c */*.h iretrace/*/*.c iretrace/*/*.h)

PREFIX ?= /usr/local

.PHONY: demo test lint unit vmtest bench fuzz screenshots sample site install uninstall clean packages-demo packages-test packages-vm

demo: $(INSTALLED) packages-demo
	@sh tools/demo.sh $(BIN)/iretrace $(BIN)/python

test: $(INSTALLED) packages-test lint unit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(INSTALLED)
	$(BIN)/python -m pytest

# The tests in emulated machines alone; `make test` has them too.
vmtest: $(INSTALLED) packages-vm
	IRETRACE_VM_TESTS=1 $(BIN)/python -m pytest -m vm

bench: $(INSTALLED) packages-test
	$(BIN)/python -m benchmarks

# Ten minutes for each format that is read, or `make fuzz SECONDS=60`: crashes, hangs and growing memory end it.
SECONDS ?= 600
FUZZED  := perf trace-dat ftrace qemu csv partial trace
fuzz: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	for format in $(FUZZED); do $(BIN)/python -m tests.fuzz $$format $(SECONDS) || exit 1; done

screenshots: $(INSTALLED) packages-test
	PYTHONPATH=. $(BIN)/python docs/screenshots.py

sample: $(INSTALLED)
	$(BIN)/python samples/record.py

# The documentation as a site, in site/: open site/index.html.
site: $(INSTALLED)
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

# For everybody on this machine: a virtual environment under PREFIX/lib, the command, man pages, completion.
# INSTALL_PYTHON names the interpreter; by default one that all users can run.
install:
	@[ "$$(id -u)" -ne 0 ] || sh tools/packages.sh python3-venv python3-dev gcc $(DEMO_PACKAGES)
	@sh tools/install.sh $(PREFIX) $(INSTALL_PYTHON)

uninstall:
	@sh tools/uninstall.sh $(PREFIX)

# An interpreter without its headers cannot build the extension; Debian has them apart.
$(INSTALLED): $(SOURCES)
	@$(PYTHON) -c 'import sysconfig, pathlib, sys; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' \
		|| sh tools/packages.sh python3-dev
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

packages-demo:
	@sh tools/packages.sh $(DEMO_PACKAGES)

packages-test:
	@sh tools/packages.sh $(TEST_PACKAGES)

packages-vm:
	@sh tools/packages.sh $(DEMO_PACKAGES) $(VM_PACKAGES)

clean:
	rm -rf $(VENV) build vmtest/build *.egg-info iretrace/_native*.so demo report.html
