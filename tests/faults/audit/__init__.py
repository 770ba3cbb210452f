"""Faults of the audit: written without looking at the checks, in rounds of 40, and kept as a record.

They name no behavior: the question is whether the whole suite, run against each of them, has a failure at all.
"""
