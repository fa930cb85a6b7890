"""Breaks a living environment, one part at a time and under load, and measures what its clients see.

`make resilience` runs it, docs/resilience.md describes it. A module each for the client, the load it makes, the ledger
of what was acknowledged, what is measured, the hosts, the faults, the checks after each, and the report.
"""
