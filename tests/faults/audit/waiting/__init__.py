"""Rounds 7 and 8, written without looking at the checks: they wait until a whole round has been run, and count nowhere.

Tried so far, one by one: round 7 but for its files, and the training of round 8 (24 of 30 and 5 of 10 at first sight).
To try a round, move its modules one folder up and run ``python -m tests.faults.run --all --record``; whoever means to
strengthen checks first must not read them.
"""
