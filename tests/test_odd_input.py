"""Sizes and names that no machine can serve: one sentence, exit status 2, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convmixer.config import ModelConfig
from convmixer.data import Dataset
from convmixer.errors import InputError
from convmixer.runtime.memory import enough_memory
from convmixer.training.sizes import few_steps_hint
from tests.helpers.cli import Run
from tests.helpers.runs import tiny_config

LONG = "x" * 5000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--dim", "9" * 20), f"--dim: {'9' * 20} is out of range; give a value from 1 to 2147483647."),
        (("--image-size", 10**12), f"--image-size: {10**12} is out of range; give a value from 1 to 2147483647."),
        (
            ("--dim", 2**31 - 1, "--depth", 1),
            "convmixer train needs more memory than there is; choose a smaller --batch-size",
        ),
        (("--depth", 2**31 - 1), f"--depth: {2**31 - 1} is out of range; give a value from 1 to 10000."),
        (("--out", LONG), "File name too long"),
        (("--config", LONG), "File name too long"),
        (("--dataset", f"folder:{LONG}"), "there is no folder xxx"),
        (("--config", "exponent.json"), "exponent.json: cannot be read as JSON (1e400 is too large a number)"),
        (("--config", "digits.json"), f"lr: 1{'0' * 59}… is out of range; give a finite value of at least 0."),
        (("--config", "thousands.json"), "thousands.json: cannot be read as JSON"),
        (("--config", "deep.json"), "deep.json: cannot be read as JSON"),
        (("--config", "binary.json"), "binary.json: cannot be read as JSON"),
    ],
)
def test_train(convmixer: Run, tmp_path: Path, arguments: tuple[object, ...], sentence: str) -> None:
    (tmp_path / "exponent.json").write_text('{"train": {"lr": 1e400}}')
    (tmp_path / "digits.json").write_text(f'{{"train": {{"lr": 1{"0" * 400}}}}}')
    (tmp_path / "thousands.json").write_text(f'{{"train": {{"lr": 1{"0" * 5000}}}}}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    before = set(tmp_path.iterdir())
    status, out, err = convmixer("train", "--dataset", "digits", *arguments)
    assert (status, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {"results"}
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize("command", [("evaluate",), ("report",), ("predict",)])
def test_other_commands(convmixer: Run, command: tuple[str, ...]) -> None:
    status, _, err = convmixer(*command, LONG, *(["a.png"] if command == ("predict",) else []))
    assert status == 2
    assert "File name too long" in err


def test_a_batch_larger_than_the_data_is_said(digits: Dataset) -> None:
    hint = few_steps_hint(tiny_config(batch_size=60_000), digits.info)
    assert hint == (
        "--batch-size 60000 is more than the 1,293 training images: an epoch has 1 step only, with all of them; "
        "with a smaller one it will learn more."
    )


def test_only_a_lack_of_memory_is_taken_for_one() -> None:
    with (
        pytest.raises(InputError, match="it needs more memory than there is; buy some"),
        enough_memory("it", "buy some"),
    ):
        torch.empty(2**45)
    with pytest.raises(InputError), enough_memory("it", "buy some"):
        raise MemoryError
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), enough_memory("it", "buy some"):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_python_names_arguments() -> None:
    with pytest.raises(InputError, match=r"^dim: 99999999999999999999 is out of range"):
        ModelConfig(dim=99999999999999999999)
