"""A store of runs: small immutable summaries, one Parquet file a run, in a directory or an object store.

::

    from iretrace.store import open_store

    store = open_store("runs/")          # or "s3://bucket/prefix", "memory://x": whatever fsspec knows
    store.runs()                         # frame, one row a run
    store.metrics()                      # frame, one row a run, policy and vector
    store.unreadable()                   # members that could not be read, with the reason
    run = store.load(run_id)             # one run: histograms, counts over time, contexts, footer
    run.study("rfc2014")                 # what the report is made of
    store.connect()                      # DuckDB, with the tables runs and metrics

Adding is :func:`iretrace.store.summarize.summarize` and :meth:`Store.add`. What lies where is in docs/runs.md.
"""

from __future__ import annotations

from iretrace.store.run import Run
from iretrace.store.store import Store, Unreadable, long_form, open_store, records

__all__ = ["Run", "Store", "Unreadable", "long_form", "open_store", "records"]
