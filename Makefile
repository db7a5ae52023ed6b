# Everything from a fresh clone, with Python 3.10 or newer and nothing else.
# Where a ROS 2 is sourced, it is used; else ROS 2 Jazzy is installed into .venv as wheels.

.SILENT:
.PHONY: demo chat run test lint docs vendor pictures install uninstall deb clean

PYTHON ?= python3
WORKSPACE ?= ~/ros2_ws
BIN := .venv/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
NPM := $(shell command -v npm)
SOURCED := $(if $(ROS_DISTRO),$(shell $(PYTHON) -c 'import rclpy' 2>/dev/null && echo $(ROS_DISTRO)))
# Names what the environment stands on, so that another Python or ROS makes a new one.
STAMP := .venv/python$(VERSION)-$(or $(SOURCED),wheels)

ifdef SOURCED
VENV_OPTIONS := --system-site-packages
# The messages of Humble and Jazzy are compiled for numpy 1.
INSTALL := -e '.[workbench,test]' 'numpy<2'
else
INSTALL := -e '.[workbench,test,ros]'
NO_WHEELS := If it names a ros- package, ROS 2 Jazzy has no wheel for this Python: \
    source a ROS 2 that is made for it, or choose another: make PYTHON=python3.12 ...
# A ROS 2 for another Python may be sourced; its modules must not shadow the wheels.
unexport PYTHONPATH
endif

# By default, nodes that run here are visible on this machine only.
ifeq ($(ROS_DISTRO),humble)
export ROS_LOCALHOST_ONLY ?= 1
else
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
endif

demo: $(STAMP)  ## one prompt, published by another process; prints the answer as it streams
	$(BIN)/python tools/demo.py

chat: $(STAMP)  ## a conversation in the terminal
	$(BIN)/python tools/demo.py --chat

run: $(STAMP)  ## the page to chat in; make run ARGS='--host 0.0.0.0 --port 8000'
	$(BIN)/python tools/run.py $(ARGS)

install:  ## onto a robot, with its ROS 2 sourced; make install WORKSPACE=~/other_ws
	$(PYTHON) tools/install.py install --workspace $(WORKSPACE)

uninstall:  ## what make install made in the workspace
	$(PYTHON) tools/install.py uninstall --workspace $(WORKSPACE)

deb: $(STAMP)  ## a Debian package of the same, for robots without a network
	$(BIN)/python tools/deb.py --python $(PYTHON)

test: $(STAMP) $(if $(NPM),node_modules/.package-lock.json)
	$(BIN)/python -m pytest --numprocesses logical --dist loadfile

lint: $(STAMP)
	echo 'make: checking style with ruff and types with mypy' >&2
	$(BIN)/ruff check
	$(BIN)/mypy

docs: $(STAMP)  ## the pages that are made from the code
	$(BIN)/python tools/interface_page.py

vendor: node_modules/.package-lock.json  ## what the page is served with, after package.json
	$(BIN)/python tools/vendor.py

pictures: $(STAMP)  ## those in docs/images, from real runs; needs Chromium
	$(BIN)/tinyllama-model build smollm2-135m-instruct
	$(BIN)/python tools/cache_picture.py
	$(BIN)/python tools/pictures.py

clean:  ## models stay in their cache folder
	rm -rf .venv node_modules build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Only the tests need it; they say what they leave out.
node_modules/.package-lock.json: package-lock.json
	echo 'make: installing what tests the chat page, with npm' >&2
	npm ci --silent && touch $@ || echo 'npm ci failed: the page is not checked by axe-core' >&2

$(STAMP): setup.py setup.cfg pyproject.toml $(wildcard tinyllama_ros/kernels/*.cc tinyllama_ros/kernels/*.h)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
	    "$(PYTHON) is Python $(VERSION), and the code is written for 3.10 and newer: " \
	    "make PYTHON=python3.12 ...")'
	test -e $@ || { echo 'make: creating the virtual environment .venv' >&2; \
	    $(PYTHON) -m venv --clear $(VENV_OPTIONS) .venv; }
	echo 'make: installing into .venv what setup.py lists (some minutes the first time)' >&2
	$(BIN)/python -m pip install -qq --disable-pip-version-check $(INSTALL) || { \
	    echo 'make: pip could not install this for Python $(VERSION). $(NO_WHEELS)' >&2; exit 1; }
	touch $@
