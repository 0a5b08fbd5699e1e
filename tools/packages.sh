#!/bin/sh
# packages.sh NAME...: install what is missing of these Debian or Ubuntu packages; say what cannot be.
set -eu
missing=
for name; do
	dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing="$missing $name"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
	echo "not installed, for want of apt-get:$missing" >&2
	exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "not installed, for want of root; install with: sudo apt-get install$missing" >&2
	exit 0
fi
echo "installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of names
apt-get install -y -qq --no-install-recommends $missing >/dev/null
