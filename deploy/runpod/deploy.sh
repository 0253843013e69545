#!/bin/sh
# Build the image, push it, and make a RunPod serverless endpoint of it.
#
#   deploy.sh --image REGISTRY/NAME:TAG [--model nano|1.3B|14B] [--gpu "NVIDIA A40"]
#             [--volume ID] [--baked] [--name NAME] [--workers N] [--dry-run]
#
# Needs docker, and runpodctl 2.3 or newer with a key (`runpodctl doctor`). --volume is the network
# volume that weights.sh has filled at /runpod-volume/omniavatar; --baked puts the weights into the
# image. Of the variables that are set here, those in the guide's table go to the endpoint.
set -eu
cd "$(dirname "$0")/../.."

image='' model=nano gpu='NVIDIA GeForce RTX 4090' volume='' baked='' name=omniavatar workers=3 dry=''
while [ $# -gt 0 ]; do
    case $1 in
        --image | --model | --gpu | --volume | --name | --workers)
            case ${2:---} in
                --*) echo "$0: $1 needs a value" >&2; exit 2 ;;
            esac ;;
    esac
    case $1 in
        --image) image=$2; shift ;;
        --model) model=$2; shift ;;
        --gpu) gpu=$2; shift ;;
        --volume) volume=$2; shift ;;
        --name) name=$2; shift ;;
        --workers) workers=$2; shift ;;
        --baked) baked=$model ;;
        --dry-run) dry=yes ;;
        *) echo "$0: unknown option $1" >&2; exit 2 ;;
    esac
    shift
done
[ -z "$baked" ] || baked=$model
if [ -z "$image" ]; then
    echo "$0: give --image REGISTRY/NAME:TAG, a place that you can push to" >&2
    exit 2
fi
case $model in
    nano | 1.3B | 14B) ;;
    *) echo "$0: --model is $model; use nano, 1.3B or 14B" >&2; exit 2 ;;
esac
if [ "$model" != nano ] && [ -z "$volume$baked" ]; then
    echo "$0: $model needs --volume ID or --baked, or its worker would stop at once" >&2
    exit 2
fi

# Everything that acts goes through here, so that a dry run shows it and does nothing.
run() {
    if [ -n "$dry" ]; then
        printf '+'
        printf " '%s'" "$@"
        printf '\n'
    else
        "$@"
    fi
}

weights=''
[ -z "$volume" ] || weights=/runpod-volume/omniavatar
[ -z "$baked" ] || weights=/weights
[ "$model" != nano ] || weights=''
OMNIAVATAR_MODEL=$model
OMNIAVATAR_WEIGHTS=$weights
export OMNIAVATAR_MODEL OMNIAVATAR_WEIGHTS
environment=$(python3 -c '
import json, os, pathlib, re, sys
table = pathlib.Path("deploy/runpod/README.md").read_text(encoding="utf-8")
names = sorted(set(re.findall(r"^\| .([A-Z_]+). \|", table, re.MULTILINE)))
values = {name: os.environ[name] for name in names if os.environ.get(name)}
hidden = {name: "***" for name in values if "SECRET" in name and sys.argv[1:] == ["yes"]}
print(json.dumps(values | hidden))' "$dry")

run docker build --platform linux/amd64 --file deploy/runpod/Dockerfile --tag "$image" \
    --build-arg "BAKED_MODEL=$([ "$baked" = nano ] || echo "$baked")" \
    --build-arg "REVISION=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" .
run docker push "$image"

disk=30
[ -z "$baked" ] || disk=120
exec 3>&1
# The "id" of what runpodctl has made; a dry run shows the command and makes up a name.
made() {
    if [ -n "$dry" ]; then
        run "$@" >&3
        echo "$kind"
    else
        "$@" | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])'
    fi
}

kind=TEMPLATE_ID
template=$(made runpodctl template create --name "$name" --image "$image" --serverless \
    --container-disk-in-gb "$disk" --env "$environment")
set -- runpodctl serverless create --name "$name" --template-id "$template" --gpu-id "$gpu" \
    --workers-min 0 --workers-max "$workers" --idle-timeout 60 --execution-timeout 3600 \
    --min-cuda-version 13.0 --flash-boot
[ -z "$volume" ] || set -- "$@" --network-volume-id "$volume"
kind=ENDPOINT_ID
endpoint=$(made "$@")
echo "Try it: python -m omniavatar acceptance --endpoint runpod:$endpoint"
