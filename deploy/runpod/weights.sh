#!/bin/sh
# Put a model's weights into a folder, such as one on a network volume, and verify every file.
#
#   weights.sh MODEL FOLDER      MODEL is 1.3B or 14B
#
# Run it again after an interruption: what is complete is not loaded again.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: $0 MODEL FOLDER" >&2
    exit 2
fi
model=$1
folder=$2
export HF_HUB_OFFLINE=0

if ! list=$(python -c '
import sys
from omniavatar import CATALOG
source = CATALOG[sys.argv[1]].source
for part in (source.base, source.adapter, source.speech_encoder):
    print(part.name, part.folder, *part.files)
' "$model" 2>/dev/null); then
    echo "$0: '$model' is not a published model. Use 1.3B or 14B; nano comes with the package." >&2
    exit 2
fi

mkdir -p "$folder"
echo "$list" | while read -r repository name files; do
    echo "$repository -> $folder/$name"
    # shellcheck disable=SC2086  # a list of names without spaces
    hf download "$repository" $files --local-dir "$folder/$name"
    hf cache verify "$repository" --local-dir "$folder/$name"
done
echo "$model is complete. Set OMNIAVATAR_MODEL=$model and OMNIAVATAR_WEIGHTS=$folder."
