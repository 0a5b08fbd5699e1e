#!/bin/sh
# dependencies.sh PYTHON run|dev: what lock/run.txt or lock/dev.txt lists, into PYTHON's environment. With LOCK= (empty),
# the newest releases that setup.py allows: whether they still fit is what make fresh asks.
set -eu
python=$1
kind=$2
cd "$(dirname "$0")/.."
if [ -n "${LOCK-lock}" ]; then
	exec "$python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "${LOCK-lock}/$kind.txt"
fi
listed=$(mktemp)
trap 'rm -f "$listed"' EXIT
"$python" tools/lock.py --show "$kind" >"$listed"
"$python" -m pip install --quiet --disable-pip-version-check --upgrade -r "$listed"
