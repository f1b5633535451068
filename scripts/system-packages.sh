#!/bin/sh
# Installs the named Debian packages that are missing, where root and apt are there; elsewhere says what is missing.
set -eu

missing=
for name in "$@"; do
  command -v "$name" >/dev/null 2>&1 || missing="$missing $name"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "==> installing$missing with apt-get"
  apt-get update -qq
  # shellcheck disable=SC2086 # a list of names
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
elif [ -n "${CI:-}" ]; then
  echo "missing:$missing; in CI that is a failure" >&2
  exit 1
else
  echo "missing:$missing; install it as root, or the tests that need it are skipped" >&2
fi
