#!/usr/bin/env bash
# LeRobot's own readers, for the tests of the dataset export: PYTHON=python3.11 lerobot_readers.sh FOLDER
# In an environment of their own, because their pins (numpy, torch, huggingface-hub) are not PLD's.
# FOLDER/v2.1 holds the older reader, of the version that openpi pins, and goes on PYTHONPATH; FOLDER/ffmpeg goes on
# LD_LIBRARY_PATH.
set -euo pipefail
folder=$(realpath -m "$1")
rm -rf "$folder"
"${PYTHON:-python3}" -m venv "$folder"
# pip rather than uv: it takes a torch without CUDA where the machine's pip is set up to offer one.
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" 'lerobot-dataset==0.4.4' 'av==15.1.0' 'torch==2.13.0'
"${pip[@]}" --no-deps 'torchvision==0.28.0' 'torchcodec==0.13.0'
"${pip[@]}" --no-deps --target "$folder/v2.1" 'lerobot==0.3.3' 'datasets==3.6.0'

# torchcodec wants ffmpeg's libraries by their plain names; the wheel of av has them under names of its own.
cd "$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/av.libs"
for library in libav*-*.so.* libsw*-*.so.*; do
  ln -sf "$library" "$(sed -E 's/-[0-9a-f]+(\.so\.[0-9]+)\..*/\1/' <<<"$library")"
done
ln -sfn "$PWD" "$folder/ffmpeg"
