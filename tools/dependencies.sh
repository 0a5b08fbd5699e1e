#!/bin/sh
# dependencies.sh PYTHON run|dev: what lock/run.txt or lock/dev.txt lists, into PYTHON's environment.
# LOCK= (empty): the newest releases that setup.py allows, to see whether they still fit (make fresh).
# LOCK=none: nothing, for who has them already (a distribution's package, the tests).
set -eu
python=$1
kind=$2
cd "$(dirname "$0")/.."
case ${LOCK-lock} in
none) exit 0 ;;
?*) exec "$python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "${LOCK-lock}/$kind.txt" ;;
esac
listed=$(mktemp)
trap 'rm -f "$listed"' EXIT
"$python" tools/lock.py --show "$kind" >"$listed"
"$python" -m pip install --quiet --disable-pip-version-check --upgrade -r "$listed"
