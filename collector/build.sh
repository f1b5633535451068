#!/bin/sh
# Builds the Collector of collector/builder-config.yaml and prints the path of the binary, the only line on stdout.
# Progress and errors go to stderr. It needs Go and its module proxy, some 2 GB of disk for Go's caches, and minutes.
#
# The binary lives in a cache outside the repository, under a name made from the manifest: a second run finds it there and
# does nothing else. Two runs at once do no harm, since each builds in a folder of its own and a rename puts the result in place.
#
#   collector/build.sh               builds if need be
#   collector/build.sh --print-path  only says where the binary is or would be
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
manifest=$here/builder-config.yaml

hash_of() {
  if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -c1-16
}

builder_version=$(sed -n 's/^# builder: *//p' "$manifest")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/otel-credits
home=$cache/collector-$(hash_of "$manifest")
binary=$home/otelcol-credits

if [ "${1:-}" = --print-path ] || [ -x "$binary" ]; then
  echo "$binary"
  exit 0
fi
if ! command -v go >/dev/null; then
  echo "collector/build.sh: Go is needed to build the Collector, and there is no 'go' in PATH." >&2
  exit 1
fi

mkdir -p "$home"
work=$(mktemp -d "$home/build.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

echo "Building the Collector with builder $builder_version; the first time takes some minutes." >&2
cd "$work"
nice go run "go.opentelemetry.io/collector/cmd/builder@$builder_version" --config "$manifest" >&2
mv "$work/build/otelcol-credits" "$binary"
echo "Built $binary" >&2
echo "$binary"
