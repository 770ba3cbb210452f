"""The assertion helpers, one module per theme. Import them from ``pytest_torchcheck``."""
