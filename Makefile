# make          virtual environment, system libraries, everything for `make train`
# make train    the whole loop on the default task; ARGS="--preset cube_pickup --seed 1"
# make ros      ROS 2 from wheels, messages and nodes, for `pld launch`; needs no ROS installation
# make test     unit, contract, integration and ROS tests
# make lerobot  LeRobot's own dataset readers and policies in .venv-lerobot, for the tests of `pld export` and serve_lerobot.py
# make check    lint, format, types, import rules
# make bench    measure this machine; the last line is JSON
SHELL := /bin/bash
.DEFAULT_GOAL := setup

PYTHON ?= python3
VENV ?= .venv
LEROBOT_VENV ?= .venv-lerobot
BIN := $(VENV)/bin
ARGS ?=
# Folders of wheels that pip is told of hold for uv too: a CPU build of torch, which PyPI has not, may lie there.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
UV_INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -b constraints.txt

# Tells the ROS build tools that the wheels in the virtual environment are the ROS installation.
ROS_PREFIX = $(abspath $(VENV))
COLCON = cd ros2_ws && AMENT_PREFIX_PATH=$(ROS_PREFIX) CMAKE_PREFIX_PATH=$(ROS_PREFIX) VIRTUAL_ENV=$(ROS_PREFIX) \
  PATH=$(ROS_PREFIX)/bin:$$PATH colcon --log-level error build --base-paths .. src
ROS_PACKAGES = package.xml setup.py $(wildcard ros2_ws/src/pld_ros/setup.* ros2_ws/src/pld_ros/package.xml)

.PHONY: setup dev ros lerobot system train test check bench clean

setup: $(VENV)/.installed system
dev: $(VENV)/.installed-dev system
ros: $(VENV)/.ros-messages $(VENV)/.ros-packages system

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older. Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing. Run: sudo apt-get install -y python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv

$(VENV)/.installed: pyproject.toml constraints.txt setup.py | $(BIN)/uv
	$(UV_INSTALL) -e .
	@touch $@

# The tests drive the arms' and cameras' own libraries, the tasks of LIBERO, and small networks in PyTorch.
$(VENV)/.installed-dev: pyproject.toml constraints.txt setup.py | $(BIN)/uv
	$(UV_INSTALL) -e '.[dev,franka,yam,realsense,opencv,libero,lerobot,torch]'
	@PYTHON=$(BIN)/python bash .ci/system_libraries.sh usb
	@PYTHON=$(BIN)/python bash .ci/system_libraries.sh opencv
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-ros: pyproject.toml constraints.txt setup.py .ci/relocate_ros.py | $(BIN)/uv
	@test -z "$$ROS_DISTRO" || { echo "ROS 2 $$ROS_DISTRO is sourced in this shell. Build with it (docs/ros.md):" \
	  "colcon build --base-paths . ros2_ws/src, or run make in a shell that has not sourced it."; exit 1; }
	@PYTHON=$(BIN)/python bash .ci/system_libraries.sh compilers
	$(UV_INSTALL) -e '.[ros]'
	$(BIN)/python .ci/relocate_ros.py
	@touch $@ $(VENV)/.installed

# Newer only if the wheels are.
$(VENV)/.ros-wheels: $(VENV)/.installed-ros ;

# The messages go into the virtual environment too, where the wheels have theirs: nobody has to source anything.
$(VENV)/.ros-messages: $(VENV)/.ros-wheels $(shell find ros2_ws/src/pld_msgs)
	$(COLCON) --packages-select pld_msgs --cmake-clean-cache --cmake-args -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF
	cmake --install ros2_ws/build/pld_msgs --prefix $(VENV) >ros2_ws/log/install_messages.log
	@touch $@

lerobot: $(LEROBOT_VENV)/.installed

$(LEROBOT_VENV)/.installed: .ci/lerobot_readers.sh
	PYTHON=$(PYTHON) bash .ci/lerobot_readers.sh $(LEROBOT_VENV)
	@touch $@

# Links to the sources; the virtual environment runs them in place and does not need this.
$(VENV)/.ros-packages: pyproject.toml $(ROS_PACKAGES) $(wildcard launch launch/*) | $(VENV)/.ros-messages
	$(COLCON) --packages-select pld_ros pld --symlink-install
	@touch $@

# Software rendering; does nothing when it works already.
system:
	@PYTHON=$(PYTHON) bash .ci/system_libraries.sh egl

train: setup
	$(BIN)/pld train $(ARGS)

# Tests with LeRobot's own readers and policies (1.9 GB) run after `make lerobot`, and else are skipped and say so.
test: dev ros
	$(BIN)/python -m pytest $(ARGS)

check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: setup
	$(BIN)/pld bench $(ARGS)

clean:
	rm -rf $(VENV) $(LEROBOT_VENV) ros2_ws/build ros2_ws/install ros2_ws/log build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
