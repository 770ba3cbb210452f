"""Benchmarks: timing devices rightly, saying what machine it was, and comparing results without crying wolf."""
