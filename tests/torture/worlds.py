"""What trials happen in: a small data set, and commands that leave runs, a search and a study."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convmixer.runs.paths import PREVIOUS
from tests.torture.sandbox import command, run

FIELDS = (
    *("--dataset", "folder:data", "--dim", "8", "--depth", "1", "--kernel-size", "3", "--patch-size", "2"),
    *("--batch-size", "12", "--randaugment", "0", "--engine", "plain", "--device", "cpu", "--track", "none"),
)
TIMES = {"seconds", "images_per_second", "epoch_seconds", "started", "command", "process", "earlier", "data", "repeat"}
"""Keys whose values differ from one time to the next."""
SUBJECTS = ("finished", "interrupted", "search", "study")


def make_data(folder: Path) -> None:
    """Three classes of 20 pictures of 8×8 pixels each, and a picture to predict."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for label, name in enumerate(("circle", "cross", "line")):
        (folder / "data" / name).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 120, (8, 8, 3), dtype=np.uint8)
            pixels[:, :, label] += 100
            Image.fromarray(pixels).save(folder / "data" / name / f"{number}.png")
    shutil.copy(folder / "data" / "cross" / "3.png", folder / "picture.png")


def without_pictures() -> None:
    """Leaves out the figures, which take longer than all else; for children."""
    from convmixer.inference.gallery import Gallery
    from convmixer.utils import visualization

    visualization.save_figure = lambda figure, path: Path(path).touch()
    for name in ("confusion_matrix", "calibration_diagram", "learning_curve"):
        setattr(visualization, name, lambda *_, **__: None)
    Gallery.figure = lambda self: None  # type: ignore[assignment, method-assign, return-value]


def plain(*arguments: str) -> Callable[[], None]:
    """A command without its figures."""

    def execute() -> None:
        without_pictures()
        command(*arguments)()

    return execute


def training(out: str = "run", *, seed: int = 0, epochs: int = 3) -> Callable[[], None]:
    """Begins a run, or continues it; a checkpoint after every step."""

    def execute() -> None:
        resume = ("--resume",) if os.path.exists(Path(out, "config.json")) else ()
        flags = ("--epochs", str(epochs), "--seed", str(seed), "--checkpoint-minutes", "0", "--out", out)
        plain("train", *FIELDS, *flags, *resume)()

    return execute


def searching(out: str = "search", *, seed: int = 0) -> Callable[[], None]:
    """Begins or continues a search with a pruner."""
    space = ("--values", "lr=0.001,0.01,0.05", "--pruner", "median", "--seeds", "2", "--epochs", "2")
    return plain("grid-search", *FIELDS, *space, "--seed", str(seed), "--checkpoint-minutes", "0", "--out", out)


def studying(out: str = "study", *, seeds: int = 2) -> Callable[[], None]:
    """Begins or continues a study of one experiment with two rows."""

    def execute() -> None:
        from convmixer.config import DataConfig
        from convmixer.experiments import Experiment, Profile, Row
        from convmixer.experiments.suite import Study, Suite

        without_pictures()
        size = {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "batch_size": 12, "randaugment": 0}
        profile = Profile("tiny", seeds=seeds, fields={"recipe": "baseline", "epochs": 2, **size}, widest=16)
        base = Row("lr {lr}", {"lr": 0.01})
        rates = Experiment(name="rates", question="Which rate?", base=base, rows=(base, Row("lr {lr}", {"lr": 0.03})))
        common = {"device": "cpu", "engine": "plain", "checkpoint_minutes": 0.0}
        data = DataConfig(dataset="folder:data")
        study = Study(out=Path(out), profile_name="tiny", profile=profile, seeds=seeds, data=data, common=common)
        _as_command(lambda: Suite(study, (rates,)).run())

    return execute


def _as_command(work: Callable[[], object]) -> None:
    """Ends as the command line does."""
    from convmixer.cli import exit_status
    from convmixer.runtime.signals import interrupt_commands_only

    def done() -> int:
        work()
        return 0

    interrupt_commands_only()
    sys.exit(exit_status(done))


def make_world(folder: Path) -> Path:
    """A folder with data, finished runs, interrupted ones, searches and studies, of two seeds each.

    Raises:
        RuntimeError: one of the commands failed.
    """
    folder.mkdir()
    make_data(folder)
    makers = {
        "finished": training("finished"),
        "finished-other": training("finished-other", seed=1),
        "search": searching(),
        "search-other": searching("search-other", seed=5),
        "study": studying(),
        "study-other": studying("study-other", seeds=1),
    }
    for name, make in makers.items():
        if (ended := run(make, folder, 240)).status != 0:
            raise RuntimeError(f"{name} cannot be made: {ended}")
    for name, seed in (("interrupted", 0), ("interrupted-other", 1)):
        _interrupt(folder, name, seed)
    return folder


def make_kernels(folder: Path) -> None:
    """Adds compiled kernels and timings to a world's cache, and a compiler that only copies what was compiled.

    Raises:
        RuntimeError: they cannot be made.
    """
    from convmixer.kernels.build import build

    (folder / "compiler").mkdir()
    shutil.copy(build(), folder / "compiler" / "kernels.so")
    script = folder / "compiler" / "c++"
    copy = 'for last; do :; done; cp "$(dirname "$0")/kernels.so" "$last"'  # -o FILE comes last
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo copying && exit\n{copy}\n')
    script.chmod(0o755)
    ended = run(choosing, folder, 240, environment=compiler(folder))
    made = sorted(path.suffix for path in (folder / "cache").iterdir() if path.is_file())
    if made != [".json", ".sha256", ".so"]:
        raise RuntimeError(f"the kernels cannot be made: {made}, {ended}")


def choosing() -> None:
    """Has the engine chosen by measurement for a network that is large enough; prints what both make of an image."""
    import torch

    import convmixer

    images = torch.arange(64 * 3 * 16 * 16).reshape(64, 3, 16, 16).remainder(7.0)
    for engine in ("auto", "fast"):
        torch.manual_seed(0)
        model = convmixer.create_model("convmixer", dim=64, depth=1, kernel_size=5, num_classes=3, engine=engine)
        with torch.no_grad():
            found = model.eval()(images)[0].tolist()
        sys.stdout.write(f"{[round(value, 3) + 0.0 for value in found]}\n")  # the engines round otherwise


def compiler(folder: Path) -> dict[str, str]:
    """The variables that have the kernels built by the compiler in a world."""
    return {"CXX": str(folder / "compiler" / "c++")}


def _interrupt(folder: Path, name: str, seed: int) -> None:
    from tests.torture.operations import watch

    def react(count: int, kind: str, path: str) -> None:
        if kind == "replace" and path.endswith("checkpoint.pt"):
            react.saves += 1  # type: ignore[attr-defined]
            if react.saves == 7:  # type: ignore[attr-defined]
                os.kill(os.getpid(), signal.SIGKILL)

    react.saves = 0  # type: ignore[attr-defined]

    def interrupted() -> None:
        watch(folder / name, react)
        training(name, seed=seed)()

    ended = run(interrupted, folder, 240)
    if ended.signum != 9 or not (folder / name / "checkpoint.pt").exists():
        raise RuntimeError(f"{name} was not interrupted: {ended}")


def essence(value: Any) -> Any:
    """Plain values without times and dates."""
    if isinstance(value, dict):
        return {key: essence(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, (list, tuple)):
        return [essence(item) for item in value]
    return value


def results(folder: Path) -> dict[str, Any]:
    """The result files below a folder, by path: bytes by their hash, JSON without times and dates."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or ".search" in path.parts or path.name in _INCIDENTAL or path.suffix in (".lock", ".png"):
            continue
        if path.name.startswith(".") and path.suffix != ".tmp":
            continue
        if not path.is_file():  # reading a pipe would wait
            found[name] = "not a file"
        elif path.suffix == ".json":
            found[name] = _json(path.read_bytes())
        elif path.suffix == ".jsonl":
            found[name] = [_json(line) for line in path.read_bytes().splitlines()]
        elif path.name == PREVIOUS:  # the step before, or where a run was interrupted: no result, but to be whole
            found[name] = _whole(path)
        elif path.suffix == ".pt":
            found[name] = _checkpoint(path)
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


_INCIDENTAL = {"environment.json", "manifest.json", "optuna.journal"}


def _whole(path: Path) -> str:
    from convmixer.runs.checkpoint import DamagedCheckpointError, read_state

    try:
        return ", ".join(sorted(read_state(path)))
    except DamagedCheckpointError as error:
        return str(error)


def _checkpoint(path: Path) -> Any:
    import torch

    def hashed(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return zlib.crc32(value.contiguous().numpy().tobytes())
        if isinstance(value, dict):
            return {str(key): hashed(item) for key, item in value.items() if key not in TIMES}
        return [hashed(item) for item in value] if isinstance(value, (list, tuple)) else value

    try:
        return hashed(torch.load(path, weights_only=True))
    except Exception as error:  # damaged
        return f"no checkpoint: {type(error).__name__} {zlib.crc32(path.read_bytes())}"


def _json(content: bytes) -> Any:
    try:
        return essence(json.loads(content))
    except (ValueError, RecursionError):
        return f"not JSON: {zlib.crc32(content)}"
