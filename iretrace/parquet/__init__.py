"""A Parquet file of events, written page by page; whoever reads it needs nothing of this."""
