#!/usr/bin/env bash
# Install from the system what no wheel brings, or say how; does nothing where it works already.
#   system_libraries.sh egl         off-screen rendering, in software if there is no GPU
#   system_libraries.sh compilers   to build the ROS messages
#   system_libraries.sh usb         cameras of the extra "realsense"
#   system_libraries.sh opencv      cameras of the extra "opencv"
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

case ${1:-egl} in
  egl)
    what="Off-screen rendering"
    packages=(libegl1 libegl-mesa0 libgl1 libgles2 libgl1-mesa-dri libopengl0)
    problem() { "$PYTHON" -I pld_core/system.py --egl 2>&1; }
    ;;
  compilers)
    what="Building ROS messages"
    packages=(cmake make g++ python3-dev)
    problem() {
      for program in cmake make gcc g++; do
        command -v "$program" >/dev/null || { echo "$program is missing"; return 1; }
      done
      headers=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')
      [ -f "$headers/Python.h" ] || { echo "the headers of $PYTHON are missing ($headers/Python.h)"; return 1; }
    }
    ;;
  usb)
    what="RealSense"
    packages=(libusb-1.0-0)
    problem() { "$PYTHON" -c 'import ctypes; ctypes.CDLL("libusb-1.0.so.0")' 2>&1 | tail -n 1; return "${PIPESTATUS[0]}"; }
    ;;
  opencv)
    what="OpenCV"
    packages=(libgl1 libglib2.0-0 libxcb1 libsm6 libice6 libxext6)
    libraries='"libGL.so.1", "libgthread-2.0.so.0", "libxcb.so.1", "libSM.so.6", "libICE.so.6", "libXext.so.6"'
    problem() {
      "$PYTHON" -c "import ctypes; [ctypes.CDLL(name) for name in ($libraries)]" 2>&1 | tail -n 1
      return "${PIPESTATUS[0]}"
    }
    ;;
  *) echo "usage: $0 egl|compilers|usb|opencv, got '$1'"; exit 2 ;;
esac

found=$(problem) && exit 0
[ "$(uname -s)" = Linux ] || exit 0
install="apt-get install -y --no-install-recommends ${packages[*]}"
echo "${what} does not work yet: ${found}"
if ! command -v apt-get >/dev/null; then
  echo "Install with your package manager (Debian's names): ${packages[*]}"
  exit 1
fi
sudo=""
if [ "$(id -u)" != 0 ]; then
  sudo="sudo"
  if ! sudo -n true 2>/dev/null; then
    echo "Run this once, then the same make command again:"
    echo "    sudo ${install}"
    exit 1
  fi
fi
echo "Installing ${packages[*]}"
${sudo} apt-get update -qq && ${sudo} env DEBIAN_FRONTEND=noninteractive ${install} -qq >/dev/null
found=$(problem) && exit 0
echo "${what} still does not work: ${found}"
exit 1
