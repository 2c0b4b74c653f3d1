"""Tests of a memory on Ray; but for those of the registry, on a Ray of several nodes on this machine."""
