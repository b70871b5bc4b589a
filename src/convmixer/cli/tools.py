"""The commands that list what there is: convmixer models and recipes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import tyro

from convmixer.cli.output import print_json, print_table
from convmixer.config import AugmentConfig, TrainConfig, per_block_text
from convmixer.errors import InputError, nearest
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
