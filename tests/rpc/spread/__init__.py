"""Tests of memories that lie on several servers."""
