"""Whole servers as peers: each module starts one in a process of its own and asks it by its client.

`make servers` makes the environment that they run under. LanceDB has no server of its own that is
free to run: it is embedded in the process that asks. What is said to a server is said in the way
that its manual names for many vectors at once.
"""
