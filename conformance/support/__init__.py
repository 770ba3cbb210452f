"""What the checks share: comparison in NumPy, statistics with a stated false-alarm probability, child processes."""
