"""A run's configuration as a whole: its parts, changes by name, identity, and older versions' names."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from msgspec import Meta

from convmixer.config.architecture import ModelConfig
from convmixer.config.augment import AugmentConfig
from convmixer.config.data import DataConfig
from convmixer.config.fields import Protocol
from convmixer.config.train import TrainConfig
from convmixer.errors import InputError, nearest
from convmixer.records import Checked, build

RENAMED = {"matrix_lr": "muon_lr", "branch_gamma": "init_residual_gamma"}
"""Fields of older versions and what they are called now; ``config.json`` and the command line may have either."""

_VARIANTS: dict[str, dict[str, str]] = {
    "base": {},
    "rh": {"head": "rh"},
    "lc": {"head": "lc"},
    "bn": {"branch": "bottleneck"},
}
"""What older versions called variant, as head and branch."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Checked):
    """Everything needed to repeat a run."""

    model: str = "convmixer"
    """Preset that the architecture's defaults come from (see: convmixer models)."""
    recipe: str = "baseline"
    """Recipe that the augmentation's and optimisation's defaults come from: baseline, reference, strong, strong-short,
    finetune."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Seed of initial weights, order of images, augmentation and dropout."""
    protocol: Protocol = "validation"
    """validation: choose the epoch on held-out training images, read the test set once. original: train on all images
    and report the best test epoch, as the first study did."""
    architecture: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def _problems(self) -> Iterator[str]:
        for name in ("model", "recipe"):  # they become part of the path that a run is written to
            if not _NAME.fullmatch(value := getattr(self, name)):
                yield f"`{name}`: {value[:60]!r} is no name; give one of letters, digits, dots, - and _."

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as ``config.json`` holds them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, where: str = "config") -> Self:
        """The inverse of :meth:`to_dict`, also for files of older versions; missing keys take their defaults.

        Raises:
            InputError: unknown key (with the nearest known one), wrong type or impossible value.
        """
        return build(cls, _current(values), where)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, wherever they are: ``config.replace(dim=128, epochs=3)``.

        Raises:
            InputError: unknown field or impossible value.
        """
        parts: dict[str, dict[str, Any]] = {}
        own: dict[str, Any] = {}
        owner = field_owners()
        for name, value in changes.items():
            if name not in owner:
                now = (RENAMED | {"variant": "head and branch"}).get(name)
                hint = f"it is now called {now}." if now else nearest(name, owner)
                raise InputError(f"{name!r} is not a field of a run's configuration; {hint}")
            (parts.setdefault(owner[name], {}) if owner[name] else own)[name] = value
        for section, values in parts.items():
            own[section] = dataclasses.replace(getattr(self, section), **values)
        return dataclasses.replace(self, **own)

    def why_not_longer(self, epochs: int) -> str:
        """Why this run's first epochs are not those of the same run with more of them; '' if they are.

        Args:
            epochs: of the longer run.
        """
        train = self.train
        if epochs < train.epochs:
            return f"it has trained {train.epochs} epochs already, and cannot take some back"
        if train.schedule != "constant":
            return (
                f"its {train.schedule} schedule has taken the learning rate to 0 in epoch {train.epochs}: with another "
                "number of epochs, all its learning rates would have been others (--schedule constant has none that "
                "depend on it)"
            )
        if train.image_size_start is not None:
            return "the sizes of its images depend on the number of epochs"
        if train.warmup_epochs > train.epochs / 2:
            return f"its warm-up was cut to {train.epochs / 2:g} epochs, half of it"
        return ""

    def identity(self) -> dict[str, Any]:
        """Flat mapping of the fields that determine the result."""
        return {
            name: value
            for part in (self, *(getattr(self, section) for section in sections()))
            for name, value in _own_fields(part, identity_only=True).items()
        }

    def identity_hash(self) -> str:
        """Ten hexadecimal digits that two configurations share if, and practically only if, their identity is equal.

        They name directories, so what older versions could say hashes as it did there.
        """
        old_names = {new: old for old, new in RENAMED.items()}
        unset = later_defaults()
        identity = {
            old_names.get(name, name): value
            for name, value in self.identity().items()
            if name not in unset or value != unset[name]
        }
        parts = {"head": identity["head"], "branch": identity["branch"]}
        for variant, changed in _VARIANTS.items():
            if parts == {"head": "linear", "branch": "depthwise"} | changed:
                del identity["head"], identity["branch"]
                identity["variant"] = variant
        canonical = json.dumps(identity, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:10]


@functools.cache
def sections() -> tuple[str, ...]:
    """Names of the nested parts of a run's configuration."""
    return tuple(f.name for f in dataclasses.fields(RunConfig) if isinstance(f.default_factory, type))


@functools.cache
def field_owners() -> dict[str, str]:
    """Each field's name and the section that holds it ('' for a run's own fields)."""
    owners = dict.fromkeys(_own_fields(RunConfig()), "")
    for section in sections():
        owners |= dict.fromkeys(_own_fields(getattr(RunConfig(), section)), section)
    return owners


@functools.cache
def later_defaults() -> dict[str, Any]:
    """The defaults of the fields that version 0.1 did not have."""
    parts = (RunConfig(), *(getattr(RunConfig(), section) for section in sections()))
    return {f.name: f.default for part in parts for f in dataclasses.fields(part) if f.metadata.get("later")}


def _own_fields(part: Any, identity_only: bool = False) -> dict[str, Any]:
    return {
        item.name: getattr(part, item.name)
        for item in dataclasses.fields(part)
        if not dataclasses.is_dataclass(getattr(part, item.name))
        and (item.metadata.get("identity", True) or not identity_only)
    }


def _current(values: Any) -> Any:
    """The plain values of a configuration under the names that fields have now."""
    if not isinstance(values, dict):
        return values
    values = {RENAMED.get(name, name): _current(value) for name, value in values.items()}
    if isinstance(variant := values.get("variant"), str) and variant in _VARIANTS:
        del values["variant"]
        values = _VARIANTS[variant] | values
    return values
