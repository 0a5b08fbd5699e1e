"""Roots of other Debian releases, made by debootstrap, in which commands run on this machine's kernel.

What is mounted for a command is mounted in a name space of its own and goes with it, whatever happens. What this
machine needs to reach its mirrors (proxies, certificates, the indexes of pip) is taken from its own configuration.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

VARIABLES: Final = re.compile(r"\w+_proxy|PIP_\w+|SSL_CERT_\w+|\w+_CA_BUNDLE", re.IGNORECASE)
APT_SETTINGS: Final = re.compile(r"Acquire::(https?|ftp|Check-|Retries|ForceIPv)\S* .*;")
FILES: Final = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d",
    "/etc/ssl/certs/ca-certificates.crt",
    "/usr/local/share/ca-certificates",
)

# The kernel's file systems are new ones: what is mounted below them here, tracefs for one, is not in there.
MOUNTS: Final = """
set -eu
root=$1
shift
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do
	mkdir -p "$root$1"
	mount --bind -o ro "$1" "$root$1"
	shift
done
shift
exec chroot "$root" "$@"
"""


def output(*command: str) -> str:
    """What a command prints; nothing where it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


def mirror() -> str | None:
    """Where this machine takes Debian's packages from; ``None``: it does not, and debootstrap knows a place."""
    listed = output("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages")
    return next((line.split()[1] for line in listed.splitlines() if line.startswith("Debian ")), None)


def apt_settings(dump: str) -> str:
    """Of what ``apt-config dump`` prints, that which says how a mirror is reached."""
    return "".join(f"{line}\n" for line in dump.splitlines() if APT_SETTINGS.fullmatch(line))


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment as at a login in the root, and of this one that which says how mirrors are reached."""
    kept = {name: value for name, value in environment.items() if VARIABLES.fullmatch(name)}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **kept}


def pip_files(debug: str) -> list[Path]:
    """Of what ``pip config debug`` prints, the files that are there."""
    return [Path(found) for found in re.findall(r"^ +(/.*), exists: True$", debug, re.MULTILINE)]


def pip_paths(listed: str) -> list[Path]:
    """Of what ``pip config list`` prints, the files and directories that are there.

    An index names files beside itself (``../../files/``), so that the directory above it is meant.
    """
    found: dict[Path, None] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        for word in value.strip("'\"").replace("\\n", " ").split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path.exists():
                found[path.parent if name.endswith("index-url") else path] = None
    return list(found)


class Root:
    """A directory with a distribution in it.

    Args:
        directory: of the root; its first state is kept beside it, and is there for the next time.
        suite: Debian's name of the release.
    """

    def __init__(self, directory: Path, suite: str) -> None:
        self.directory, self.suite = directory.absolute(), suite
        self._base = self.directory.with_name(f"{directory.name}-base")
        pip = (sys.executable, "-m", "pip", "config")
        self._pip_files = pip_files(output(*pip, "debug"))
        named = pip_paths(output(*pip, "list"))
        self._pip_files += [path for path in named if path.is_file()]
        self._packages = [path for path in named if path.is_dir()]

    @property
    def is_new(self) -> bool:
        """Whether nothing is kept of it yet."""
        return not self._base.exists()

    def bootstrap(self) -> list[str]:
        """The command that makes the first state."""
        made = self._made()
        shutil.rmtree(made, ignore_errors=True)
        made.parent.mkdir(parents=True, exist_ok=True)
        return ["debootstrap", "--variant=minbase", self.suite, str(made), *filter(None, [mirror()])]

    def keep(self) -> None:
        """What was made is the first state."""
        self._made().rename(self._base)

    def forget(self) -> None:
        """There is no first state any more."""
        shutil.rmtree(self._base, ignore_errors=True)

    def reset(self) -> None:
        """As nobody had used it; with this machine's way to its mirrors."""
        self.remove()
        subprocess.run(["cp", "-a", self._base, self.directory], check=True)
        for path in map(Path, FILES):
            self._copy(path, path)
        for path in self._pip_files:
            home = Path.home()
            self._copy(path, Path("/root") / path.relative_to(home) if path.is_relative_to(home) else path)
        settings = self.directory / "etc/apt/apt.conf.d/90from-outside"
        settings.write_text(apt_settings(output("apt-config", "dump")))

    def remove(self) -> None:
        """The directory goes, the first state stays."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def command(self, *command: str, cwd: str = "/root") -> list[str]:
        """Run a command in it, as root, with nothing left mounted."""
        inside = ["/bin/sh", "-c", f'cd {cwd} && exec "$@"', "sh", *command]
        mounted = [*map(str, self._packages), "--"]
        return [
            "unshare",
            "--mount",
            "--propagation=private",
            "sh",
            "-c",
            MOUNTS,
            "sh",
            str(self.directory),
            *mounted,
            *inside,
        ]

    def processes(self) -> Iterator[tuple[int, str]]:
        """Those that run in it, by number and command line."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if (entry / "root").stat() and os.path.samestat((entry / "root").stat(), self.directory.stat()):
                        line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                        yield int(entry.name), " ".join(line.split())
                except OSError:
                    continue  # it ended meanwhile

    def _made(self) -> Path:
        return self.directory.with_name(f"{self.directory.name}-new")

    def _copy(self, source: Path, inside: Path) -> None:
        target = self.directory / inside.relative_to("/")
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


__all__: Sequence[str] = ("Root", "apt_settings", "mirror", "pip_files", "pip_paths", "variables")
