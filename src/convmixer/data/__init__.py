"""Data sets as uint8 tensors in memory, augmentation of whole batches, and seeded batches.

The names below are loaded when first used, so that importing a module of this package that needs no torch stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convmixer.data.collection import Collection as Collection
    from convmixer.data.collection import DatasetInfo as DatasetInfo
    from convmixer.data.collection import Divided as Divided
    from convmixer.data.collection import Part as Part
    from convmixer.data.collection import divide as divide
    from convmixer.data.collection import load_collection as load_collection
    from convmixer.data.datasets import Dataset as Dataset
    from convmixer.data.datasets import Split as Split
    from convmixer.data.datasets import load_dataset as load_dataset

_HOME = dict.fromkeys(("Collection", "DatasetInfo", "Divided", "Part", "divide", "load_collection"), "collection")
_HOME |= dict.fromkeys(("Dataset", "Split", "load_dataset"), "datasets")

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
