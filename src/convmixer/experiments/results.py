"""What has been measured of each row so far, and the table of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from rich.table import Table

from convmixer.runs import Summary
from convmixer.utils.metrics import MeanInterval, mean_interval


@dataclass(frozen=True)
class RowResult:
    """What has been measured of a row so far."""

    experiment: str
    label: str
    seeds: int
    """Finished runs."""
    diverged: int
    test_accuracy: MeanInterval | None
    val_accuracy: MeanInterval | None
    epoch_seconds: float | None
    """Median over the finished runs."""

    @classmethod
    def of(cls, experiment: str, label: str, ended: Sequence[Summary]) -> Self:
        """What the runs of a row that have ended say together."""
        finished = [summary for summary in ended if summary.status == "finished"]
        test = [s.test_accuracy for s in finished if s.test_accuracy is not None]
        val = [s.val_accuracy for s in finished if s.val_accuracy is not None]
        seconds = [s.epoch_seconds for s in finished if s.epoch_seconds is not None]
        return cls(
            experiment=experiment,
            label=label,
            seeds=len(finished),
            diverged=sum(summary.status == "diverged" for summary in ended),
            test_accuracy=mean_interval(test) if test else None,
            val_accuracy=mean_interval(val) if val else None,
            epoch_seconds=statistics.median(seconds) if seconds else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def results_table(results: Sequence[RowResult], title: str) -> Table:
    """What has been measured, a section for each experiment; accuracies as mean ± standard deviation over seeds."""
    table = Table("experiment", "row", title=title, title_justify="left")
    for heading in ("test", "validation", "s/epoch", "seeds"):
        table.add_column(heading, justify="right", no_wrap=True)
    previous = ""
    for result in results:
        first = result.experiment != previous
        if first:
            table.add_section()
        table.add_row(
            result.experiment if first else "",
            result.label,
            _mean_and_deviation(result.test_accuracy),
            _mean_and_deviation(result.val_accuracy),
            "–" if result.epoch_seconds is None else f"{result.epoch_seconds:.2f}",
            f"{result.seeds}" + (f" ({result.diverged} diverged)" if result.diverged else ""),
        )
        previous = result.experiment
    return table


def _mean_and_deviation(interval: MeanInterval | None) -> str:
    if interval is None:
        return "–"
    return f"{interval.mean:.2%}" + ("" if interval.std is None else f" ± {100 * interval.std:.2f}")
