"""Experiments, speed and memory benchmarks, and the tables made of their results.

Run them from the root of a clone whose environment has the package installed:
`python -m benchmarks.NAME`.
"""
