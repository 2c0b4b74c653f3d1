"""Benchmarks: what is claimed about speed and recall, beside the peer it is measured against.

Each module but those of `runner.HELPERS` is a benchmark, found by its name. It has a one-line
docstring and

    def run(quick: bool) -> Iterator[Measured]: ...

which yields each `Figure` as soon as it is known, a `Missing` for what cannot be measured here, and
a `Curve` for each line of a plot; `quick` asks for seconds rather than minutes. Peers are measured
in the same run, by turns with ours: see `runner.paired_medians`, and `peers` for other engines.
"""
