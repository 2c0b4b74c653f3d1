"""Peers: other engines, each in a process of its own under its own Python environment.

`make peers` makes that environment. The process speaks JSON lines: see `__main__` for the verbs
and `client` for our side. A module here is one engine and imports no more than numpy and that
engine, since memstore is not installed where it runs. `servers` has those that are whole servers.
"""
