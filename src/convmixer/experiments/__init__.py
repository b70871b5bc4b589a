"""The study: a small table for each experiment, and the suite that runs them."""

from __future__ import annotations

from collections.abc import Iterable

from convmixer.errors import InputError, nearest
from convmixer.experiments import (
    bottleneck,
    classifier,
    depth_vs_width,
    grid_search,
    hidden_dim,
    kernel_size,
    patch_size,
    published,
    recipes,
    regularisation,
)
from convmixer.experiments.definition import PROFILES, Experiment, Profile, PublishedResult, Row, Search

__all__ = ["EXPERIMENTS", "PROFILES", "Experiment", "Profile", "PublishedResult", "Row", "Search", "experiments_named"]

EXPERIMENTS: dict[str, Experiment | Search] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        published,
        hidden_dim,
        classifier,
        bottleneck,
        grid_search,
        recipes,
        kernel_size,
        patch_size,
        depth_vs_width,
        regularisation,
    )
}
"""All experiments; those that the first study published come first."""


def experiments_named(names: Iterable[str]) -> list[Experiment | Search]:
    """The experiments called ``names``, each once; "all" stands for every one.

    Raises:
        InputError: none is named, or one that does not exist (with the nearest that does).
    """
    wanted = [known for name in names for known in (EXPERIMENTS if name == "all" else (name,))]
    if not wanted:
        raise InputError(f"experiment: no name given; choose from {', '.join((*EXPERIMENTS, 'all'))}.")
    for name in wanted:
        if name not in EXPERIMENTS:
            raise InputError(f"experiment: {name!r} is unknown; {nearest(name, (*EXPERIMENTS, 'all'))}")
    return [EXPERIMENTS[name] for name in dict.fromkeys(wanted)]
