"""Benchmarks of torch on the selected devices; never part of a verdict: ``pytest conformance/benchmarks``."""
