"""Several ranks, here threads, compute what one process does that accumulates as many parts, and stop together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from convmixer.data import Dataset
from convmixer.errors import Interrupted
from convmixer.training.build import new_model
from convmixer.training.loop import TrainingLoop
from convmixer.training.observers import RunObserver
from tests.helpers.runs import tiny_config

CPU = torch.device("cpu")


class Threads:
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, meeting: threading.Barrier, shared: dict[int, Any]) -> None:
        self.rank, self.size, self.meeting, self.shared = rank, meeting.parties, meeting, shared

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard(self, batch: Tensor) -> Tensor:
        return batch.tensor_split(self.size)[self.rank]

    def gather(self, value: Any) -> list[Any]:
        self.shared[self.rank] = value
        self.barrier()
        values = [self.shared[rank] for rank in range(self.size)]
        self.barrier()
        return values

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        mine = list(tensors)
        everyones = self.gather([tensor.clone() for tensor in mine])
        for tensor, *parts in zip(mine, *everyones, strict=True):
            tensor.copy_(torch.stack(parts).sum(0))

    def agree(self, value: Any) -> Any:
        return next((other for other in self.gather(value) if other is not None), None)

    def any(self, flag: bool) -> bool:
        return any(self.gather(flag))

    def barrier(self) -> None:
        self.meeting.wait(timeout=60)


def ranks(digits: Dataset, size: int, observers: list[RunObserver], **changes: Any) -> list[TrainingLoop]:
    meeting, shared = threading.Barrier(size), dict[int, Any]()
    config = tiny_config(engine="plain", crop="none", lr=0.02, **changes)
    return [
        TrainingLoop(
            config, digits, new_model(config, digits.info, CPU), CPU, observers[rank], Threads(rank, meeting, shared)
        )
        for rank in range(size)
    ]


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_are_parts_of_a_batch(digits: Dataset, size: int) -> None:
    loops = ranks(digits, size, [RunObserver()] * size, batch_size=401, epochs=1)
    with ThreadPoolExecutor(size) as pool:
        list(pool.map(TrainingLoop.run, loops))
    (alone,) = ranks(digits, 1, [RunObserver()], batch_size=401, epochs=1, accumulate=size)
    alone.run()
    for loop in loops:
        assert loop.state.records[0].train_loss == pytest.approx(alone.state.records[0].train_loss, rel=1e-5)
        for ours, expected in zip(loop.model.parameters(), alone.model.parameters(), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)
    for ours, other in zip(loops[0].model.parameters(), loops[-1].model.parameters(), strict=True):
        assert torch.equal(ours, other)


def test_a_signal_on_one_rank_stops_all_at_the_same_step(digits: Dataset) -> None:
    class Signalled(RunObserver):
        asked = 0

        def should_stop(self) -> Interrupted | None:
            self.asked += 1
            return Interrupted(signal.SIGTERM) if self.asked == 3 else None

    loops = ranks(digits, 2, [RunObserver(), Signalled()], epochs=2)

    def stopped(loop: TrainingLoop) -> int:
        with pytest.raises(Interrupted):
            loop.run()
        return loop.state.step

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(stopped, loops)) == [2, 2]
