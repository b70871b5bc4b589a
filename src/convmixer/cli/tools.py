"""The commands beside training: convmixer models, recipes and bench."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import tyro

from convmixer.bench.settings import BenchConfig
from convmixer.cli.output import ERRORS, print_json, print_table
from convmixer.config import AugmentConfig, TrainConfig, per_block_text
from convmixer.errors import InputError, nearest
from convmixer.files import write_atomic
from convmixer.parts.branches import BRANCHES
from convmixer.parts.heads import HEADS
from convmixer.presets import RECIPES
from convmixer.utils.formatting import number


@dataclass(frozen=True)
class Models:
    """List the models with parameters, multiply-adds and input size."""

    json: bool = False
    """Print the list as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.models import describe_models

        rows = describe_models()
        if self.json:
            print_json([vars(row) for row in rows])
            return 0
        headers = ("model", "weights", "mult-adds", "input", "h/d", "kernel", "patch", "head", "branch", "for")
        cells = [
            (
                row.model,
                f"{row.parameters:,}",
                f"{row.multiply_adds / 1e6:,.1f} M",
                f"{row.image_size}×{row.image_size}",
                f"{row.dim}/{row.depth}",
                per_block_text(row.kernel_size),
                str(row.patch_size),
                row.head,
                row.branch,
                row.purpose,
            )
            for row in rows
        ]
        print_table(headers, cells, optional=("branch", "head", "patch", "kernel", "h/d", "input", "mult-adds"))
        print("\nParts that --head and --branch (Python: head=, branch=) take:")
        parts = [(name, "head", _first_line(head)) for name, head in HEADS.items()]
        parts += [(name, "branch", _first_line(branch.build)) for name, branch in BRANCHES.items()]
        print_table(("name", "part", "what it is"), parts)
        return 0


@dataclass(frozen=True)
class Recipes:
    """List the recipes, or show the settings of one."""

    name: tyro.conf.Positional[str] = ""
    """Recipe whose settings to show."""
    json: bool = False
    """Print them as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        if self.name and self.name not in RECIPES:
            raise InputError(f"{self.name!r} is not a recipe; {nearest(self.name, RECIPES)}")
        if self.json:
            chosen = {self.name: RECIPES[self.name]} if self.name else RECIPES
            print_json({name: asdict(recipe) for name, recipe in chosen.items()})
        elif self.name:
            _print_recipe(self.name)
        else:
            rows = []
            for name, recipe in RECIPES.items():
                train = recipe.train
                batch = "by the data" if train.batch_size is None else f"≤ {train.batch_size}"
                cells = (str(train.epochs), batch, train.optimizer, number(train.lr), train.schedule)
                rows.append((name, recipe.description, *cells))
            headers = ("recipe", "what it is", "epochs", "batch", "optimizer", "lr", "schedule")
            print_table(headers, rows, optional=("schedule", "lr", "optimizer", "batch"))
        return 0


def _print_recipe(name: str) -> None:
    """Its settings that differ from the plain defaults; the others are what --help says."""
    recipe, rows = RECIPES[name], []
    for part, plain in ((recipe.augment, AugmentConfig()), (recipe.train, TrainConfig())):
        for item in fields(part):
            value, default = getattr(part, item.name), getattr(plain, item.name)
            if value != default:
                rows.append((f"--{item.name.replace('_', '-')}", number(value), number(default)))
    print_table(("flag", name, "without a recipe"), rows, title=f"{name}: {recipe.description}")


def _first_line(function: object) -> str:
    return (function.__doc__ or "").partition("\n")[0]


@dataclass(frozen=True)
class Bench:
    """Measure the engines beside what PyTorch offers without them, and the augmentation beside Pillow's, in turns."""

    config: tyro.conf.OmitArgPrefixes[BenchConfig] = field(default_factory=BenchConfig)
    explain: bool = False
    """Instead of measuring, list which operation of the fast engine runs as what on this machine."""
    sweep: tuple[Literal["all", "batch_size", "depth", "dim", "image_size", "kernel_size"], ...] = ()
    """Instead of comparing competitors, measure how the engines' speed changes with these sizes of a small network."""
    json: bool = False
    """Print the records as JSON."""
    out: Path | None = None
    """File to write the records to, as JSON."""
    plot: Path | None = None
    """File, .png or .svg, for a picture: what the competitors reach under the machine's measured limits."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.bench import augment
        from convmixer.bench.compare import bench, explain, format_table, roofline_panels, to_json
        from convmixer.bench.sweep import AXES, format_sweep, sweep
        from convmixer.utils.bench_figures import roofline
        from convmixer.utils.visualization import save_figure

        if self.plot is not None and (self.plot.suffix.lower() not in (".png", ".svg") or self.sweep or self.explain):
            raise InputError(
                f"--plot: {self.plot} is not a .png or .svg, or goes with --sweep or --explain, which have none."
            )
        if not self.config.work and (self.plot is not None or self.sweep or self.explain):
            raise InputError("--what: --plot, --sweep and --explain are about networks; add train or infer to augment.")

        if self.explain:
            headers = ("what", "model", "setting", "operation", "runs as", "calls")
            rows = explain(self.config)
            if self.json:
                print_json([dict(zip(headers, row, strict=True)) for row in rows])
            else:
                print_table(headers, [[str(cell) for cell in row] for row in rows])
            return 0

        def progress(text: str) -> None:
            ERRORS.print(f"bench: {text}")

        records: list[Any] = []
        table = ""
        if self.sweep:
            records += sweep(self.config, list(AXES) if "all" in self.sweep else self.sweep, progress=progress)
            table = format_sweep(records)
        elif self.config.work:
            records += bench(self.config, progress)
            table = format_table(records)
            if self.plot is not None:
                save_figure(roofline(roofline_panels(records)), self.plot)
        if "augment" in self.config.what:
            prepared = augment.bench_augment(self.config, progress)
            records += prepared
            table = "\n".join(filter(None, (table, augment.format_table(prepared))))
        print(to_json(records) if self.json else f"{table}\n", end="")
        if self.out is not None:
            write_atomic(self.out, to_json(records))
        return 0
