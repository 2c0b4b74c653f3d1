"""The hot loops, compiled once; each has a plain numpy twin in the tests."""
