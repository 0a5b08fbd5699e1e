"""An ordinary user for the tests of what a privileged process may be led to."""

from __future__ import annotations

import os
import pwd
import secrets
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.conftest import needed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PROTECTED_SYMLINKS: Final = Path("/proc/sys/fs/protected_symlinks")


class Stranger:
    """A user of this machine without any right.

    Attributes:
        name: of the user.
        uid: of the user; the group has the same name.
        gid: of that group.
        home: a directory of the user's, for the test.
    """

    def __init__(self, name: str, home: Path) -> None:
        entry = pwd.getpwnam(name)
        self.name, self.uid, self.gid, self.home = name, entry.pw_uid, entry.pw_gid, home

    def run(self, command: Sequence[str | Path], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program as this user."""
        return subprocess.run(
            list(map(str, command)),
            user=self.uid,
            group=self.gid,
            extra_groups=[],
            cwd=cwd or self.home,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )

    def link(self, name: str, target: Path, directory: Path | None = None) -> None:
        """Make a symbolic link, where nothing is yet."""
        self.run(["ln", "-sn", target, name], cwd=directory).check_returncode()

    def write(self, name: str, text: str) -> Path:
        """Write a file of this user's."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for made in (path, path.parent):
            os.chown(made, self.uid, self.gid)
        return path

    def sudo(self) -> dict[str, str]:
        """What sudo tells a program that this user ran by it."""
        return {"SUDO_UID": str(self.uid), "SUDO_GID": str(self.gid)}


@contextmanager
def stranger() -> Iterator[Stranger]:
    """A new user, and a directory that is theirs; both are gone afterwards."""
    useradd, userdel = needed("useradd", "passwd"), needed("userdel", "passwd")
    name = f"iretrace-{secrets.token_hex(3)}"
    subprocess.run([useradd, "--no-create-home", "--user-group", name], check=True)
    try:
        with tempfile.TemporaryDirectory(prefix="iretrace-test-") as home:
            found = Stranger(name, Path(home))
            os.chown(home, found.uid, found.gid)
            yield found
    finally:
        subprocess.run([userdel, name], check=True, capture_output=True)


@contextmanager
def symlinks_protected(value: int) -> Iterator[None]:
    """With ``fs.protected_symlinks`` as given."""
    before = _PROTECTED_SYMLINKS.read_text()
    _PROTECTED_SYMLINKS.write_text(str(value))
    try:
        yield
    finally:
        _PROTECTED_SYMLINKS.write_text(before)
