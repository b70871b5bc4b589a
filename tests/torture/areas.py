"""The areas: what each tries, how many trials the committed run has to have, and its share of the time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.torture.judge import Judgement


@dataclass(frozen=True)
class Result:
    """What became of a trial: how many inputs it tried, and those that were not survived."""

    what: str
    tried: int
    judgements: tuple[tuple[str, Judgement], ...]
    """A judgement each, or of a batch only the failures; with what it is of."""


class Area(Protocol):
    """Trials of one kind. Each follows from the seed and its index, and from nothing else."""

    name: str
    goal: int
    """Trials that a run of 15 minutes has to have."""
    share: float
    """Of the time."""

    def prepare(self, folder: Path) -> None:
        """Makes in an empty folder what all trials start from; called once, before the workers are forked."""

    def trial(self, index: int, random_: random.Random, folder: Path) -> Result | None:
        """Makes one trial in an empty folder; None if there are no more."""


def all_areas() -> dict[str, type[Any]]:
    """The areas by name, in the order of a run."""
    from tests.torture.guided import Guided
    from tests.torture.inputs import Inputs
    from tests.torture.kills import Kills
    from tests.torture.leaks import Leaks
    from tests.torture.machine import Machine
    from tests.torture.rot import Rot
    from tests.torture.sharing import Sharing

    return {kind.name: kind for kind in (Kills, Machine, Sharing, Rot, Inputs, Leaks, Guided)}


def generator(seed: int, area: str, index: int) -> random.Random:
    """The random numbers of one trial."""
    return random.Random(f"{seed} {area} {index}")


def indices(worker: int, workers: int) -> Iterator[int]:
    """The trials of one worker."""
    index = worker
    while True:
        yield index
        index += workers
