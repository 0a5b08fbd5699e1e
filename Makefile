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

# Which releases: those of lock/, made by `make lock`; `LOCK=` takes the newest that setup.py allows (tools/dependencies.sh).
LOCK ?= lock
export LOCK

# What runs iretrace, and what the tests need as well.
INSTALLED     := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
SOURCES       := setup.py pyproject.toml $(wildcard */*.c */*.h iretrace/*/*.c iretrace/*/*.h)

PREFIX ?= /usr/local

.PHONY: demo test check quick distros fresh lock lint unit vmtest bench fuzz screenshots sample site install uninstall clean packages-build packages-demo packages-test packages-vm

demo: $(INSTALLED) packages-demo
	@sh tools/demo.sh $(BIN)/iretrace $(BIN)/python

test: $(INSTALLED_DEV) packages-test lint unit

# What a fresh machine makes of a clone, in roots of their own, as root; then the unit tests on the wheel.
# SUITES=trixie STEPS=demo: that alone; --refresh (in DISTROS) makes the roots anew.
SUITES ?= bookworm trixie sid
STEPS  ?= demo wheel
distros:
	@[ "$$(id -u)" -ne 0 ] || sh tools/packages.sh debootstrap
	@$(PYTHON) -m tools.distros --steps "$(STEPS)" $(DISTROS) $(SUITES)

# New releases, for every Python at once: see tools/lock.py.
lock:
	$(PYTHON) tools/lock.py $(UPGRADE:%=--upgrade)

# The newest releases, not those of the lock, in an environment of their own: what they break, before they are locked.
fresh:
	rm -rf build/fresh
	$(MAKE) VENV=build/fresh LOCK= lint unit

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What needs neither root nor a browser nor an emulated machine, nor much time: about a minute on two cores.
check: $(INSTALLED_DEV)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target quick lint

quick: $(INSTALLED_DEV)
	$(BIN)/python -m pytest -m 'not kernel and not vm and not browser and not slow' -n auto --dist worksteal $(OPTIONS)

# As many tests beside each other as there are CPUs, but of the live kernel and of emulated machines one at a time.
# `make unit OPTIONS=--random-order` has them in another order each time, and prints the seed.
unit: $(INSTALLED_DEV)
	$(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder --durations=40 --durations-min=5 $(OPTIONS)

# The tests in emulated machines alone; `make test` has them too.
vmtest: $(INSTALLED_DEV) packages-vm
	IRETRACE_VM_TESTS=1 $(BIN)/python -m pytest -m vm

bench: $(INSTALLED_DEV) packages-test
	$(BIN)/python -m benchmarks

# Ten minutes for each format that is read, or `make fuzz SECONDS=60`: crashes, hangs and growing memory end it.
SECONDS ?= 600
FUZZED  := perf trace-dat ftrace qemu csv partial trace
fuzz: $(INSTALLED_DEV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	for format in $(FUZZED); do $(BIN)/python -m tests.fuzz $$format $(SECONDS) || exit 1; done

screenshots: $(INSTALLED_DEV) packages-test
	PYTHONPATH=. $(BIN)/python docs/screenshots.py

sample: $(INSTALLED)
	$(BIN)/python samples/record.py

# The documentation as a site, in site/: open site/index.html.
site: $(INSTALLED_DEV)
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

# For everybody on this machine: a virtual environment under PREFIX/lib, the command, man pages, completion.
# INSTALL_PYTHON names the interpreter; by default one that all users can run.
install:
	@[ "$$(id -u)" -ne 0 ] || sh tools/packages.sh python3-venv python3-dev gcc $(DEMO_PACKAGES)
	@sh tools/install.sh $(PREFIX) $(INSTALL_PYTHON)

uninstall:
	@sh tools/uninstall.sh $(PREFIX)

$(INSTALLED): $(SOURCES) lock/run.txt tools/dependencies.sh | packages-build
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	sh tools/dependencies.sh $(BIN)/python run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED) lock/dev.txt
	sh tools/dependencies.sh $(BIN)/python dev
	@touch $@

# What builds the extension, and the interpreter's headers and venv, which Debian has apart.
packages-build:
	@command -v gcc >/dev/null || sh tools/packages.sh gcc libc6-dev
	@$(PYTHON) -c 'import ensurepip, sysconfig, pathlib; (pathlib.Path(sysconfig.get_path("include")) / "Python.h").stat()' 2>/dev/null \
		|| sh tools/packages.sh $(notdir $(PYTHON))-dev $(notdir $(PYTHON))-venv

packages-demo:
	@sh tools/packages.sh $(DEMO_PACKAGES)

packages-test:
	@sh tools/packages.sh $(TEST_PACKAGES)

packages-vm:
	@sh tools/packages.sh $(DEMO_PACKAGES) $(VM_PACKAGES)

clean:
	rm -rf $(VENV) build vmtest/build *.egg-info iretrace/_native*.so demo report.html
