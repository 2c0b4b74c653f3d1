"""Tests of the service: what is said over the wire, and by whom."""
