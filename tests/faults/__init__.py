"""Planted faults: small patches that make an installed torch behave like a broken install.

They prove that every check can fail. Nothing here is part of the wheel.
"""
