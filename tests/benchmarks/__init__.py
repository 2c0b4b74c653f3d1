"""Benchmarks: what is claimed about speed and recall, beside the peer it is measured against.

Each module but `runner` and `data` is a benchmark, found by its name. It has a one-line
docstring and

    def run(quick: bool) -> Iterator[Figure]: ...

which yields each figure as soon as it is known; `quick` asks for seconds rather than minutes.
Peers are measured in the same run, by turns with ours: see `runner.paired_medians`.
"""
