"""Bytes from whoever: what decodes them and what serves them neither crashes nor fails untyped.

python -m tests.fuzz.run --inputs 1000000 --seed 1
"""
