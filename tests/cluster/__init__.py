"""Tests of a memory on Ray: on one of several nodes on this machine, where Ray is needed."""
