#!/bin/sh
# Put a model's weights into a folder, such as one on a network volume, and verify every file.
#
#   weights.sh MODEL FOLDER      MODEL is 1.3B or 14B
#
# Run it again after an interruption: it goes on where it was.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: $0 MODEL FOLDER" >&2
    exit 2
fi
model=$1
folder=$2
export HF_HUB_OFFLINE=0

python -m omniavatar download "$model" --to "$folder"
python -m omniavatar download "$model" --to "$folder" --check
echo "$model is complete. Set OMNIAVATAR_MODEL=$model and OMNIAVATAR_WEIGHTS=$folder."
