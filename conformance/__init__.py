"""The conformance suite: one test per documented behavior of PyTorch, traced to a row of the catalogue."""
