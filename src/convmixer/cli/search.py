"""The command convmixer grid-search."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from convmixer.cli.output import ERRORS, print_table
from convmixer.cli.train import fit_to_data
from convmixer.config import RunConfig
from convmixer.errors import Interrupted
from convmixer.presets import run_config
from convmixer.search.space import SearchConfig
from convmixer.utils.formatting import mean_accuracy, number, percent, settings

if TYPE_CHECKING:
    from convmixer.search.grid_search import SearchResult


@dataclass(frozen=True)
class GridSearch:
    """Search the fields of a run for the best validation accuracy, then train the winner over seeds and test it.

    The same command continues where it was stopped; several processes with the same --out share the work.
    """

    run: tyro.conf.OmitArgPrefixes[RunConfig] = field(default_factory=run_config)
    search: Annotated[SearchConfig, tyro.conf.OmitArgPrefixes, tyro.conf.UseAppendAction] = field(
        default_factory=SearchConfig
    )
    out: Path | None = None
    """Search directory; by default one under results/grid_search that is named after what is searched."""
    config: Path | None = None
    """Defaults instead of those of --model and --recipe: a run directory, its config.json, or a JSON or YAML file."""
    json: bool = False
    """Print the records as JSON."""
    fits_batch: tyro.conf.Suppress[bool] = False
    """As :attr:`convmixer.cli.train.Train.fits_batch`."""

    def execute(self) -> int:
        """Runs the command; returns the exit status: 1 if a run crashed, or none finished."""
        from convmixer.search.grid_search import default_search_path, grid_search
        from convmixer.search.pool import RunCrashedError

        run, dataset = self.run, None
        if self.fits_batch and all(dimension.name != "batch_size" for dimension in self.search.check(run).space()):
            run, dataset = fit_to_data(run)
        out = self.out or default_search_path(run, self.search)
        try:
            result = grid_search(run, self.search, out, dataset=dataset, console=ERRORS)
        except Interrupted as stop:
            ERRORS.print("Interrupted; the checkpoints are written, the same command continues.")
            return 128 + stop.signum
        except RunCrashedError as error:
            ERRORS.print(f"{error}; the same command tries it again.", style="red")
            return 1
        if self.json:
            print((out / "grid_search.json").read_text(encoding="utf-8"), end="")
        else:
            _show(result, self.search, str(out))
        failed = [record for record in result.records if record.state == "failed"]
        for record in failed:
            reason = f"{out / record.path} crashed, its error.txt says why; the same command tries it again."
            ERRORS.print(reason, style="red")
        if result.winner is None:
            ERRORS.print("No run finished, so there is no winner.", style="red")
        return 1 if failed or result.winner is None else 0


def _show(result: SearchResult, config: SearchConfig, title: str) -> None:
    """Prints all runs, the best first; the effect of each listed value; the winner over seeds."""
    from convmixer.search.grid_search import marginals
    from convmixer.utils.comparisons import mean_interval

    names = [dimension.name for dimension in config.space()]
    rows = []
    for record in sorted(result.records, key=lambda record: -(record.val_accuracy or 0.0)):
        seconds = "–" if record.epoch_seconds is None else f"{record.epoch_seconds:.1f} s"
        cells = (str(record.seed), percent(record.val_accuracy), seconds, record.state, Path(record.path).name)
        rows.append([*(number(record.values[name]) for name in names), *cells])
    headers = [*names, "seed", "val accuracy", "epoch", "state", "run"]
    print_table(headers, rows, title=title, optional=("run", "epoch", "seed"))
    if effects := marginals(result.records, config):
        rows = [[e.name, number(e.value), str(e.runs), percent(e.mean), percent(e.best)] for e in effects]
        print_table(["field", "value", "finished runs", "mean val accuracy", "best"], rows)
    if result.winner is None:
        return
    rows = [[str(run.seed), percent(run.val_accuracy), percent(run.test_accuracy)] for run in result.runs]
    tested = [run.test_accuracy for run in result.runs if run.test_accuracy is not None]
    if len(tested) > 1:
        rows.append(["mean ± 95% CI", "", mean_accuracy(mean_interval(tested))])
    print_table(["seed", "val accuracy", "test accuracy"], rows, title=f"winner: {settings(result.winner)}")
