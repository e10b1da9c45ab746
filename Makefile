# `make demo` and `make test` do everything on a fresh Debian/Ubuntu machine with Python 3.11: see README.md.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# A screen is made where there is none, each beginner at another number: two that look for a free one at once find the same.
screen = $(shell [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || [ "$$(uname)" != Linux ] || echo 'xvfb-run -a -n $(1) -s "-screen 0 1280x800x24"')
SCREEN := $(call screen,99)
# Without this, glibc hands every layer's memory back to the system: half of the time of a network on the CPU.
ALLOCATOR := MALLOC_MMAP_THRESHOLD_=134217728 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_ARENA_MAX=1

.PHONY: setup demo test test-core test-window test-napari-old test-encoders bench-env-monai bench-env-tiatoolbox fast lint docs screenshots clean

setup: .venv/ready

# What a window without a screen, and the tests of a worker over ssh, need on Debian and Ubuntu; elsewhere, or where it is there already, nothing is installed.
SYSTEM_PACKAGES := xvfb xauth libegl1 libgl1 libopengl0 libgl1-mesa-dri libxkbcommon-x11-0 libxcb-cursor0 \
	libxcb-icccm4 libxcb-keysyms1 libxcb-shape0 libxcb-image0 libxcb-render-util0 libxcb-xinerama0 libdbus-1-3 \
	libfontconfig1 openssh-server

.venv/ready: pyproject.toml constraints.txt
	@if command -v apt-get >/dev/null; then \
		missing=; for p in $(SYSTEM_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
		if [ -n "$$missing" ]; then echo "installing:$$missing"; \
			$(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq $$missing \
			|| { echo "make setup: apt-get could not install:$$missing; install them and try again" >&2; exit 2; }; fi; \
	fi
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make setup: Python 3.11 or later is needed; remove .venv and call: make setup PYTHON=python3.11" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev,docs]'
	touch $@

demo: setup
	$(ALLOCATOR) $(SCREEN) $(BIN)/napari-msunet demo --out demo-output $(if $(SCREEN),--close)

# Two halves of about the same length beside each other, one thread each: two that both want all cores wait for one
# another. The one with the window also has what its layers stand on.
WITH_WINDOW := tests/widgets tests/labels tests/objects tests/review tests/slide tests/annotation tests/models

test: setup
	@OMP_NUM_THREADS=1 $(MAKE) --no-print-directory -j2 test-core test-window

test-core: setup
	$(ALLOCATOR) $(call screen,199) $(BIN)/python -m pytest $(addprefix --ignore=,$(WITH_WINDOW))

test-window: setup
	$(ALLOCATOR) $(call screen,299) $(BIN)/python -m pytest -p no:cacheprovider $(WITH_WINDOW)

# The paintable layer in an older napari, in an environment of its own (no torch in it): build/napari-old.
OLD_NAPARI := 0.6.6
OLD := build/napari-old

$(OLD)/ready-$(OLD_NAPARI): pyproject.toml
	test -x $(OLD)/bin/python || $(PYTHON) -m venv $(OLD)
	$(OLD)/bin/python -m pip install --quiet --disable-pip-version-check "napari[pyqt6]==$(OLD_NAPARI)" "dask[array]" \
		defusedxml filelock hypothesis imagecodecs openslide-bin openslide-python platformdirs psutil pydantic pytest \
		pytest-qt pytest-timeout qtpy scikit-image scipy shapely superqt tifffile yaozarrs "zarr>=3.1"
	touch $@

test-napari-old: $(OLD)/ready-$(OLD_NAPARI)
	PYTHONPATH=src:tests $(SCREEN) $(OLD)/bin/python -m pytest -W default -p no:cacheprovider tests/widgets/paint/test_pyramid_labels_region.py

# Other tools for benchmarks/inference.py, each in an environment of its own: build/bench-monai, build/bench-tiatoolbox
# (several GB: its torch comes with CUDA). What follows each tool is what loading our network there needs.
BENCH_MONAI := monai==1.6.1 torch==2.13.0
BENCH_TIATOOLBOX := tiatoolbox==2.1.3 torch==2.12.1 torchvision==0.27.1

bench-env-monai bench-env-tiatoolbox: bench-env-%: build/bench-%/ready

build/bench-%/ready: Makefile
	test -x build/bench-$*/bin/python || $(PYTHON) -m venv build/bench-$*
	build/bench-$*/bin/python -m pip install --quiet --disable-pip-version-check $(BENCH_$(shell echo $* | tr a-z A-Z)) \
		numpy pydantic safetensors scipy psutil
	touch $@

.PRECIOUS: build/bench-%/ready

# Encoders of timm, in an environment of their own with the builds of torch and torchvision that go together (several
# GB, once): build/encoders-env.
ENCODERS := build/encoders-env

$(ENCODERS)/ready: pyproject.toml constraints.txt
	test -x $(ENCODERS)/bin/python || $(PYTHON) -m venv $(ENCODERS)
	grep -v '^torch==' constraints.txt > $(ENCODERS)/constraints.txt
	$(ENCODERS)/bin/python -m pip install --quiet --disable-pip-version-check -c $(ENCODERS)/constraints.txt \
		torch==2.12.1 torchvision==0.27.1 -e '.[encoders]' pytest pytest-timeout
	touch $@

test-encoders: $(ENCODERS)/ready
	PYTHONPATH=tests $(ALLOCATOR) $(ENCODERS)/bin/python -m pytest -W default -p no:cacheprovider tests/encoders

fast: setup
	$(ALLOCATOR) $(SCREEN) $(BIN)/python -m pytest -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup
	$(BIN)/mkdocs build --strict

# The pictures of the tutorial and the README, by the real window: docs/images/tutorial-*.jpg and tour.webp.
screenshots: setup
	$(ALLOCATOR) $(SCREEN) $(BIN)/python docs/screenshots.py

clean:
	rm -rf .venv demo-output site $(OLD) build/bench-*
