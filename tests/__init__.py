"""Tests and benchmarks of memstore, models and workers."""
