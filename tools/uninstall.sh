#!/bin/sh
# uninstall.sh PREFIX: takes away what install.sh put there.
set -eu
prefix=$1
home=$prefix/lib/iretrace
if [ -e "$home" ] && ! [ -e "$home/pyvenv.cfg" ]; then
	echo "$home: not from make install; nothing was removed" >&2
	exit 2
fi
made=$(sort -r "$home/made-directories" 2>/dev/null || true) # a directory after those in it
rm -rf "$home"
if [ "$(readlink "$prefix/bin/iretrace" 2>/dev/null)" = ../lib/iretrace/bin/iretrace ]; then
	rm "$prefix/bin/iretrace"
fi
rm -f "$prefix/share/bash-completion/completions/iretrace" \
	"$prefix/share/zsh/site-functions/_iretrace" \
	"$prefix/share/fish/vendor_completions.d/iretrace.fish" \
	"$prefix/share/man/man1/iretrace.1" "$prefix"/share/man/man1/iretrace-*.1
for directory in $made; do
	rmdir "$prefix/$directory" 2>/dev/null || true
done
echo "removed from $prefix"
