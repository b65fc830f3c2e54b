#!/usr/bin/env bash
# Make off-screen rendering (EGL, in software if there is no GPU) work, or say how.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
packages=(libegl1 libegl-mesa0 libgl1 libgles2 libgl1-mesa-dri libopengl0)
install="apt-get install -y --no-install-recommends ${packages[*]}"

problem=$("$PYTHON" -I pld_core/system.py --egl 2>&1) && exit 0
[ "$(uname -s)" = Linux ] || exit 0
echo "Off-screen rendering does not work yet: ${problem}"
if command -v apt-get >/dev/null; then
  sudo=""
  if [ "$(id -u)" != 0 ]; then
    if sudo -n true 2>/dev/null; then sudo="sudo"; else
      echo "Run this once, then the same make command again:"
      echo "    sudo ${install}"
      exit 1
    fi
  fi
  echo "Installing ${packages[*]}"
  ${sudo} apt-get update -qq && ${sudo} env DEBIAN_FRONTEND=noninteractive ${install} -qq >/dev/null
  problem=$("$PYTHON" -I pld_core/system.py --egl 2>&1) && exit 0
  echo "Off-screen rendering still does not work: ${problem}"
  exit 1
fi
echo "Install Mesa's EGL libraries with your package manager (Debian's names: ${packages[*]})."
exit 1
