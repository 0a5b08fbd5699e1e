"""Kernels by package name: fetched with apt, unpacked without being installed, made ready to boot.

``python -m vmtest.kernels PACKAGE...`` fetches what is missing below ``vmtest/build/``.

A package such as ``linux-image-amd64`` names no kernel itself; the image it depends on is taken. The bzImage is
unpacked to the ``vmlinux`` in it (boot protocol, Documentation/arch/x86/boot.rst: ``payload_offset``,
``payload_length``), which QEMU boots by its PVH entry without real mode and decompression: 3.5 s instead of 9 s.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vmtest import BUILD, HERE, KERNELS

MODULES: Final = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
"""What the guest needs to mount its root; dependencies are added, built-in ones left out."""

_ELF: Final = b"\x7fELF"
_COMPLETE: Final = "complete"


class KernelError(Exception):
    """A kernel cannot be fetched or made ready."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel that is ready to boot.

    Attributes:
        package: the package that was asked for.
        release: as ``uname -r`` says it.
        vmlinux: the uncompressed kernel.
        initramfs: busybox, modules and ``guest/init``.
    """

    package: str
    release: str
    vmlinux: Path
    initramfs: Path


def ready(package: str) -> Kernel:
    """A kernel by its package, fetched and unpacked unless it was before.

    Raises:
        KernelError: apt does not have it, or it is not as expected.
    """
    image, version = _resolve(package)
    directory = BUILD / f"{image}_{version.replace(':', '%')}"
    if not (directory / _COMPLETE).exists():
        shutil.rmtree(directory, ignore_errors=True)
        _unpack(image, directory)
        (directory / _COMPLETE).touch()
    vmlinux = next(directory.glob("vmlinux-*"))
    initramfs = directory / "initramfs.cpio"
    _make_initramfs(directory / "modules", initramfs)
    return Kernel(package=package, release=vmlinux.name.removeprefix("vmlinux-"), vmlinux=vmlinux, initramfs=initramfs)


def _resolve(package: str) -> tuple[str, str]:
    """The package that holds the image, and its version."""
    for attempt in ("as the lists are", "after apt-get update"):
        depends = _run(["apt-cache", "depends", "--no-recommends", "--no-suggests", package], check=False)
        names = [line.partition("Depends: ")[2].strip() for line in depends.splitlines() if "Depends: " in line]
        image = next((name for name in names if name.startswith("linux-image-")), package)
        shown = _run(["apt-cache", "show", "--no-all-versions", image], check=False)
        version = next((line[9:].strip() for line in shown.splitlines() if line.startswith("Version: ")), "")
        if version:
            return image, version
        if attempt == "as the lists are":
            _run(["apt-get", "update", "-qq"], check=False)
    raise KernelError(f"apt has no package {package}")


def _unpack(image: str, directory: Path) -> None:
    directory.mkdir(parents=True)
    sandbox = ["-o", "APT::Sandbox::User=root"]  # the directory may not be the sandbox user's to write
    for last in (False, True):
        try:
            _run(["apt-get", "download", "-qq", *sandbox, image], cwd=directory)
            break
        except KernelError:  # a version that left the archive since the lists were fetched
            if last:
                raise
            _run(["apt-get", "update", "-qq"])
    (archive,) = directory.glob("*.deb")
    root = directory / "root"
    _run(["dpkg", "-x", str(archive), str(root)])
    archive.unlink()
    (bzimage,) = (root / "boot").glob("vmlinuz-*")
    release = bzimage.name.removeprefix("vmlinuz-")
    (directory / f"vmlinux-{release}").write_bytes(vmlinux_of(bzimage.read_bytes()))
    _take_modules(root, release, directory / "modules")
    shutil.rmtree(root)


def _take_modules(root: Path, release: str, target: Path) -> None:
    """Unpacked copies of :data:`MODULES` and of what they need, named in the order in which to load them."""
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")  # where newer packages have them, and depmod -b does not look
    _run(["depmod", "-b", str(root), "-a", release])
    paths: list[Path] = []
    for name in MODULES:
        listing = _run(["modprobe", "-d", str(root), "-S", release, "--show-depends", name])
        for line in listing.splitlines():
            kind, _, path = line.strip().partition(" ")
            if kind == "insmod" and Path(path.strip()) not in paths:  # the others are "builtin"
                paths.append(Path(path.strip()))
    target.mkdir()
    for number, module in enumerate(paths):
        data = module.read_bytes()
        if module.suffix == ".xz":
            data = lzma.decompress(data)
        elif module.suffix == ".zst":
            data = subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True).stdout
        (target / f"{number:02}-{module.name.partition('.')[0]}.ko").write_bytes(data)


def vmlinux_of(bzimage: bytes) -> bytes:
    """The ELF file inside a bzImage.

    Raises:
        KernelError: no bzImage, or its payload is packed in a way not known here.
    """
    if bzimage[0x202:0x206] != b"HdrS":
        raise KernelError("not a bzImage: no HdrS at 0x202")
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    setup_sectors = bzimage[0x1F1] or 4
    begin = (setup_sectors + 1) * 512 + offset
    payload = bzimage[begin : begin + length]
    if payload.startswith(b"\xfd7zXZ\x00"):
        unpacked = lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(payload)
    elif payload.startswith(b"\x1f\x8b"):
        unpacked = gzip.decompress(payload)
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):
        # The four bytes behind the frame are the unpacked size (scripts/Makefile.lib, size_append).
        unpacked = subprocess.run(["zstd", "-dcq"], input=payload[:-4], capture_output=True, check=True).stdout
    else:
        raise KernelError(f"payload begins with {payload[:6].hex()}: neither xz, gzip nor zstd")
    if not unpacked.startswith(_ELF):
        raise KernelError("the unpacked payload is no ELF file")
    return unpacked


def _make_initramfs(modules: Path, target: Path) -> None:
    """Made anew each time: it takes a blink, and follows guest/init."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise KernelError("no busybox: install busybox-static")
    tree = target.parent / "initramfs"
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "bin").mkdir(parents=True)
    shutil.copy(busybox, tree / "bin" / "busybox")
    shutil.copytree(modules, tree / "modules")
    shutil.copy(HERE / "guest" / "init", tree / "init")
    (tree / "init").chmod(0o755)
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    packed = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc", "--owner", "0:0"],
        input="\n".join(names).encode(),
        cwd=tree,
        capture_output=True,
        check=True,
    )
    target.write_bytes(packed.stdout)
    shutil.rmtree(tree)


def _run(command: list[str], *, check: bool = True, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise KernelError(f"{command[0]}: not installed") from None
    if check and done.returncode != 0:
        raise KernelError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[:400]}")
    return done.stdout


def main(packages: list[str]) -> int:
    """Make kernels ready, by default all that are tested."""
    for package in packages or KERNELS:
        try:
            kernel = ready(package)
        except KernelError as error:
            sys.stderr.write(f"vmtest: {error}\n")
            return 2
        sys.stderr.write(f"{package}: {kernel.release}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
