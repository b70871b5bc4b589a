"""Many runs in one directory: a pool that trains each once, and searches over the fields of a run.

Imports nothing, as the command line needs :mod:`convmixer.search.space` for its help, without torch.
"""
