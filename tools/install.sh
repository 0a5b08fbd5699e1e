#!/bin/sh
# install.sh PREFIX [PYTHON]: iretrace for everybody on this machine, so that "sudo iretrace collect" works as typed.
# A virtual environment in PREFIX/lib/iretrace, a link in PREFIX/bin (for /usr/local that is on sudo's secure_path),
# man pages, and completion for bash, zsh and fish. uninstall.sh takes all of it away.
set -eu
prefix=$1
python=${2:-}
home=$prefix/lib/iretrace

# One that every user can run: an interpreter in somebody's home directory is no use to others.
if [ -z "$python" ]; then
	python=python3
	if /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
		python=/usr/bin/python3
	fi
fi
mkdir -p "$prefix" 2>/dev/null || true
if ! [ -w "$prefix" ]; then
	echo "$prefix: not writable by you; sudo make install, or make install PREFIX=~/.local" >&2
	exit 2
fi
if [ -e "$home" ] && ! [ -e "$home/pyvenv.cfg" ]; then
	echo "$home: is there, and not from here; move it away, or choose another PREFIX" >&2
	exit 2
fi
# What is made here is noted, so that uninstall.sh takes that away and nothing that was there before, empty or not.
made=$(cat "$home/made-directories" 2>/dev/null || true)
ensure() {
	[ -d "$prefix/$1" ] && return
	case $1 in */*) ensure "${1%/*}" ;; esac
	mkdir "$prefix/$1"
	made="$made
$1"
}
ensure lib
"$python" -m venv --clear "$home"
sh tools/dependencies.sh "$home/bin/python" run
"$home/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation .
ensure bin
ln -sfn ../lib/iretrace/bin/iretrace "$prefix/bin/iretrace"
for directory in man/man1 bash-completion/completions zsh/site-functions fish/vendor_completions.d; do
	ensure "share/$directory"
	cp "$home/share/$directory"/*iretrace* "$prefix/share/$directory/"
done
echo "$made" >"$home/made-directories"
echo "installed: $prefix/bin/iretrace; try: iretrace doctor"
