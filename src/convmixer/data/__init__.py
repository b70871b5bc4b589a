"""Data sets as uint8 tensors in memory, augmentation of whole batches, and seeded batches.

The names below are loaded when first used, so that importing a module of this package that needs no torch stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convmixer.data.datasets import Collection as Collection
    from convmixer.data.datasets import Dataset as Dataset
    from convmixer.data.datasets import DatasetInfo as DatasetInfo
    from convmixer.data.datasets import Split as Split
    from convmixer.data.datasets import load_collection as load_collection
    from convmixer.data.datasets import load_dataset as load_dataset
    from convmixer.data.datasets import split_collection as split_collection

__all__ = ["Collection", "Dataset", "DatasetInfo", "Split", "load_collection", "load_dataset", "split_collection"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("convmixer.data.datasets"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
