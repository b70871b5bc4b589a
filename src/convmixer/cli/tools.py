"""The commands beside training: convmixer models and bench."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from convmixer.bench.settings import BenchConfig
from convmixer.cli.output import ERRORS, print_json, print_table
from convmixer.config import per_block_text
from convmixer.errors import InputError
from convmixer.files import write_atomic
from convmixer.parts.branches import BRANCHES
from convmixer.parts.heads import HEADS


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
        headers = ("model", "head", "branch", "h/d", "kernel", "patch", "input", "classes", "weights", "mult-adds")
        listed = []
        for row in rows:
            sizes = (f"{row.dim}/{row.depth}", per_block_text(row.kernel_size), row.patch_size)
            cells = (row.model, row.head, row.branch, *sizes)
            cost = (f"{row.parameters:,}", f"{row.multiply_adds / 1e6:,.1f} M")
            listed.append([*map(str, (*cells, f"{row.image_size}×{row.image_size}", row.n_classes, *cost))])
        print_table(headers, listed, optional=("classes", "patch", "kernel", "input", "h/d"))
        print("\nParts that --head and --branch (Python: head=, branch=) take:")
        parts = [("head", name, _first_line(head)) for name, head in HEADS.items()]
        parts += [("branch", name, _first_line(branch.build)) for name, branch in BRANCHES.items()]
        print_table(("part", "name", "what it is"), parts)
        return 0


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
