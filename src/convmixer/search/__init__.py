"""Many runs in one directory: a pool that trains each once, and searches over the fields of a run."""

from convmixer.search.pool import RunCrashedError, RunPool

__all__ = ["RunCrashedError", "RunPool"]
