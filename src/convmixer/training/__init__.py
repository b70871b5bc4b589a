"""One run, from its configuration to its summary: loop, step, optimisers, schedule."""

from convmixer.training.train import read_test_set, train

__all__ = ["read_test_set", "train"]
