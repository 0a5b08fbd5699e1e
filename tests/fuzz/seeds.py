"""Writes the corpus: small files of every format, from the tests' own writers. Usage: python -m tests.fuzz.seeds."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import zstandard

from iretrace.importers.run import import_file
from tests import perf_writer as perf
from tests import ring_writer as ring
from tests.fuzz.__main__ import CORPUS
from tests.test_import import write_partial
from tests.test_import_ftrace import TEXT
from tests.test_import_perf import one_of_each
from tests.test_import_qemu import trap

CSV = """tsc,cpu,phase,vector,cs,ip,flags,sp,irq,error_code,to_kernel,pid,hook
0x64,1,exit,2,0x10,0xffffffff81000000,0x46,18446744073709551615,,,true,7,a
50,1,entry,2,16,5,70,,,0,1,7,b
60,0,entry,,,,,,36,,false,0,a
"""


def write() -> None:
    """Write it all."""
    few = perf.TRACEPOINTS[:5]
    recording = perf.PerfFile()
    one_of_each(recording)
    recording.records.append(perf.record(79, b"\x0a" + b"\0" * 7 + b"\0\2" + b"\0" * 14))
    packed = perf.PerfFile(records=[])
    compressor = zstandard.ZstdCompressor().compressobj()
    for piece in recording.records:
        data = compressor.compress(piece) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        packed.records.append(perf.record(81, data))
    wide = perf.PerfFile(sample_type=0x1FFF, read_format=31)
    raw = few[0].raw({"address": 1, "ip": 2, "error_code": 3})
    wide.records.append(wide.sample(few[0], time=5, cpu=1, pid=4, raw=raw, regs=(1, 2, 3, 4)))
    page = ring.page(
        5,
        [
            ring.event(1, perf.TIMER_ENTRY.raw({"vector": 236})),
            ring.event(1, perf.FAULT_USER.raw({"address": 0, "ip": 3, "error_code": 4}), long=True),
            ring.extend(1 << 30),
            ring.padding(8),
            ring.stamp(1 << 40),
        ],
        missed=3,
    )
    files = {
        "perf/file": recording.to_file(),
        "perf/pipe": recording.to_pipe(),
        "perf/packed": packed.to_file(),
        "perf/wide": wide.to_file(),
        "trace-dat/six": ring.version_6([page, page]),
        "trace-dat/seven": ring.version_7([page]),
        "trace-dat/packed": ring.version_7([page], compression="zstd"),
        "trace-dat/zlib": ring.version_7([page], compression="zlib"),
        "ftrace/trace": TEXT.encode(),
        "ftrace/perf": b"x 7/8 [003]   5.000000001: irq_vectors:local_timer_entry: vector=236\n",
        "ftrace/report": b"cpus=2\n x-7 [000]  2454251492: nmi_handler: handler() delta_ns: 1 handled: 1\n",
        "qemu/log": (trap(0) + trap(1, v=3, i=1) + trap(0, v=6)).encode(),
        "csv/table": CSV.encode(),
    }
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        files["partial/killed"] = write_partial(place / "t.partial", [[10, 50], [20, 60]]).read_bytes()
        (place / "e.csv").write_text(CSV)
        import_file(place / "e.csv", place / "t.parquet")
        files["trace/small"] = (place / "t.parquet").read_bytes()
    shutil.rmtree(CORPUS, ignore_errors=True)
    for name, data in files.items():
        (CORPUS / name).parent.mkdir(parents=True, exist_ok=True)
        (CORPUS / name).write_bytes(data)


if __name__ == "__main__":
    write()
