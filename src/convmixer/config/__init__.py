"""What defines a run: frozen dataclasses, checked once at construction.

They are the single source of the Python API, the command line's flags and help, and ``config.json``. The text under a
field is its help. Field names are unique across the sections, so that a flag or a keyword needs no prefix.
"""

from convmixer.config.architecture import ModelConfig, per_block_text
from convmixer.config.augment import AugmentConfig
from convmixer.config.data import DataConfig
from convmixer.config.fields import Count, Device, Engine, PerBlock, Positive, Precision, Protocol, Tta
from convmixer.config.run import RENAMED, RunConfig, field_owners, later_defaults, sections
from convmixer.config.train import TrainConfig

__all__ = [
    "RENAMED",
    "AugmentConfig",
    "Count",
    "DataConfig",
    "Device",
    "Engine",
    "ModelConfig",
    "PerBlock",
    "Positive",
    "Precision",
    "Protocol",
    "RunConfig",
    "TrainConfig",
    "Tta",
    "field_owners",
    "later_defaults",
    "per_block_text",
    "sections",
]
