"""Heads and residual branches that a network is put together from, in registries of names for the configuration.

The modules here import torch only when a part is built: the command line reads the names before it needs torch.
"""
