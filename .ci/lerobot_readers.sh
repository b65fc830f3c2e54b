#!/usr/bin/env bash
# LeRobot's own readers and policies, for the tests of the dataset export and of scripts/serve_lerobot.py:
# PYTHON=python3.11 lerobot_readers.sh FOLDER
# In an environment of their own, because their pins (numpy, torch, huggingface-hub) are not PLD's.
# FOLDER/v2.1 holds the older reader, of the version that openpi pins, and goes on PYTHONPATH; FOLDER/ffmpeg goes on
# LD_LIBRARY_PATH.
# FOLDER/policies holds the whole library without what only robots and large language models need; on PYTHONPATH too.
set -euo pipefail
folder=$(realpath -m "$1")
rm -rf "$folder"
"${PYTHON:-python3}" -m venv "$folder"
# pip rather than uv: it takes a torch without CUDA where the machine's pip is set up to offer one.
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" 'lerobot-dataset==0.4.4' 'av==15.1.0' 'torch==2.13.0'
"${pip[@]}" --no-deps 'torchvision==0.28.0' 'torchcodec==0.13.0'
"${pip[@]}" --no-deps --target "$folder/v2.1" 'lerobot==0.3.3' 'datasets==3.6.0'
"${pip[@]}" --no-deps --target "$folder/policies" 'lerobot==0.4.4' 'draccus==0.10.0' 'mergedeep==1.3.4' 'toml==0.10.2' \
  'typing-inspect==0.9.0' 'mypy-extensions==1.1.0' 'pyyaml-include==1.4.1' 'einops==0.8.1' 'accelerate==1.12.0' \
  'diffusers==0.35.2' 'safetensors==0.7.0' 'regex==2025.11.3' 'importlib-metadata==8.7.0' 'zipp==3.23.0' \
  'gymnasium==1.2.3' 'farama-notifications==0.0.4' 'cloudpickle==3.1.2' 'pyserial==3.5' 'websockets==15.0.1' 'msgpack==1.1.2'

# torchcodec wants ffmpeg's libraries by their plain names; the wheel of av has them under names of its own.
cd "$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/av.libs"
for library in libav*-*.so.* libsw*-*.so.*; do
  ln -sf "$library" "$(sed -E 's/-[0-9a-f]+(\.so\.[0-9]+)\..*/\1/' <<<"$library")"
done
ln -sfn "$PWD" "$folder/ffmpeg"
