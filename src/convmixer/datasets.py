"""The data sets by name. A new one is a line here and the function it names, which is imported when it is used."""

from __future__ import annotations

DATASETS = {
    "digits": "convmixer.data.digits:load",
    "cifar10": "convmixer.data.cifar:load",
    "cifar100": "convmixer.data.cifar:load",
    "folder:PATH": "convmixer.data.folder:load",
}
"""What ``--dataset`` accepts, upper-case parts standing for any text, and the module and function that load it.

The function takes the DataConfig and the console for progress, or None; it returns a Collection.
"""


def loader_of(dataset: str) -> str | None:
    """The entry for a data set; None if there is none."""
    kind, colon, rest = dataset.partition(":")
    for name, loader in DATASETS.items():
        known, has_argument, _ = name.partition(":")
        if kind == known and (bool(rest) if has_argument else not colon):
            return loader
    return None
