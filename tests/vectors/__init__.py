"""Stores and snapshots of each version of the format, and what was in them: see `vectors.make`."""
