"""One shard: its rows, records, index and files."""
