"""Torture: thousands of kills, damaged files, hostile inputs and refusals of the system, each of them judged.

``python -m tests.torture`` (``make torture``) tries the areas of :mod:`tests.torture.areas` for some minutes and writes
a record. Every trial follows from the seed, its area and its index alone, so that a failure can be repeated alone.
"""
