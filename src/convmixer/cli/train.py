"""The command that trains: convmixer train."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.table import Table

from convmixer.cli.output import ERRORS, print_json, print_table
from convmixer.config import RunConfig
from convmixer.errors import InputError, nearest
from convmixer.presets import run_config
from convmixer.runtime.terminal import Terminal
from convmixer.utils.formatting import accuracy, percent

if TYPE_CHECKING:
    from convmixer.data import Dataset
    from convmixer.runs import Summary


@dataclass(frozen=True)
class Train:
    """Train a model and leave a run directory. Defaults come from --model and --recipe; any flag overrides them."""

    run: tyro.conf.OmitArgPrefixes[RunConfig] = field(default_factory=run_config)
    out: Path | None = None
    """Directory to write; by default a new one under results/runs, named after model, data, recipe and seed."""
    config: Path | None = None
    """Defaults instead of those of --model and --recipe: a run directory, its config.json, or a JSON or YAML file with
    some settings, such as epochs: 3."""
    dry_run: bool = False
    """Only say what the run would cost: parameters, steps, memory, and minutes from a few measured steps."""
    resume: bool = False
    """Continue the run in --out, or the newest one with this configuration."""
    json: bool = False
    """Print the summary as JSON."""
    fits_batch: tyro.conf.Suppress[bool] = False
    """Whether the batch size is the recipe's, which is made smaller where the data are few."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.runs import RunDir, default_path, newest_path, unused_path
        from convmixer.training import train

        out = self.out
        if out is not None and self.resume and not out.exists():
            known = [str(run.parent) for run in out.parent.glob("*/config.json")]
            raise InputError(
                f"--out: there is no run {out} to resume; " + (nearest(out, known) if known else "leave --resume out.")
            )
        config, dataset = self.run, None
        if out is not None and out.is_dir() and not (self.resume or self.dry_run):
            RunDir(out).check_can_use(config, resume=False)  # before the data are fetched in vain
        if self.fits_batch:
            config, dataset = fit_to_data(config)
        if self.dry_run:
            return _print_cost(config, dataset, self.json)
        if out is None:
            out = (newest_path if self.resume else unused_path)(default_path(config))
        summary = train(config, out, resume=self.resume, dataset=dataset, console=ERRORS)
        if self.json:
            print_json(summary.to_dict() | {"run": str(out)})
        else:
            Terminal().print(_summary_table(summary, out))
            if summary.status == "finished":
                board = f", tensorboard --logdir {shlex.quote(str(out / 'tensorboard'))}"
                where = shlex.quote(str(out))
                ERRORS.print(
                    f"Next: convmixer evaluate {where}, convmixer report {where}"
                    f"{board if (out / 'tensorboard').is_dir() else ''}"
                )
        if summary.status == "diverged":
            ERRORS.print(f"The run diverged: {summary.message}.", style="red")
            return 1
        return 0


def _print_cost(config: RunConfig, dataset: Dataset | None, json: bool) -> int:
    from convmixer.data import load_dataset
    from convmixer.training.dry_run import dry_run

    dataset = dataset or load_dataset(config.data, protocol=config.protocol, console=ERRORS)
    cost = dry_run(config, dataset)
    if json:
        print_json(asdict(cost))
        return 0
    sizes = ", ".join(f"{count:,} {name}" for name, count in cost.images.items())
    rows = [
        ("model", f"{config.model}, {cost.parameters:,} parameters"),
        ("mult-adds", f"{cost.multiply_adds / 1e6:,.1f} M an image"),
        ("images", sizes),
        (
            "steps",
            f"{cost.steps:,}: {config.train.epochs} epochs of {cost.steps_per_epoch} with {cost.batch_size} images",
        ),
        ("runs on", f"{cost.device} {cost.precision}, {cost.engine} engine"),
        ("a step", f"{cost.step_seconds * 1e3:.3g} ms (measured)"),
        ("memory", f"{cost.memory_bytes / 2**20:,.0f} MiB"),
        ("time", f"about {60 * cost.minutes:.2g} s" if cost.minutes < 1.5 else f"about {cost.minutes:.3g} minutes"),
    ]
    print_table(("what", "of the run"), rows)
    return 0


def fit_to_data(config: RunConfig) -> tuple[RunConfig, Dataset]:
    """Loads the data and makes the recipe's batch size fit them, saying so."""
    from convmixer.data import load_dataset
    from convmixer.training.sizes import fit_batch

    dataset = load_dataset(config.data, protocol=config.protocol, console=ERRORS)
    config, hint = fit_batch(config, dataset.info)
    ERRORS.print(hint, style="yellow", highlight=False, end="\n" * bool(hint))
    return config, dataset


def _summary_table(summary: Summary, out: Path) -> Table:
    from convmixer.runs import RunDir

    sizes = RunDir(out).dataset().sizes
    table = Table(title=str(out), show_header=False, title_justify="left")
    speed = f"{summary.epoch_seconds:.1f} s, {summary.images_per_second:.0f} img/s" if summary.epoch_seconds else "–"
    how = {"validation": "best on validation", "original": "best on test: not an unbiased figure"}[summary.protocol]
    rows = {
        "model": f"{summary.model}, {summary.parameters:,} parameters",
        "data": summary.dataset,
        "recipe": f"{summary.recipe}, seed {summary.seed}",
        "epochs": f"{summary.epochs}, selected {summary.selected_epoch} ({how})",
        "train accuracy": percent(summary.train_accuracy),
        "val accuracy": accuracy(summary.val_accuracy, sizes.get("val")),
        "test accuracy": accuracy(summary.test_accuracy, sizes.get("test")),
        "test loss": "–" if summary.test_loss is None else f"{summary.test_loss:.4f}",
        "epoch": speed,
        "status": summary.status,
    }
    if summary.test_accuracy_tta is not None:
        rows["test accuracy, tta"] = percent(summary.test_accuracy_tta)
    if pictures := sorted(path.name for path in out.glob("*.png")):
        rows["pictures"] = ", ".join(pictures)
    for name, value in rows.items():
        table.add_row(name, value)
    return table
