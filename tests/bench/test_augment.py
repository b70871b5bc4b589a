"""The augmentation's benchmark at tiny sizes, and the pipeline it compares with against the package's own."""

from __future__ import annotations

import json
import random
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from convmixer.bench import augment, pillow
from convmixer.bench.settings import BenchConfig
from convmixer.cli import main
from convmixer.data.augment import Augment
from convmixer.presets import run_config
from tests.helpers.images import batch, from_pillow, picture_batch, to_pillow


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "_IMAGES", {"cpu": 64})
    monkeypatch.setattr(augment, "_PILLOW_IMAGES", 64)
    monkeypatch.setattr(augment, "_STEPS", {"cpu": 3})
    tiny = {"dim": 8, "depth": 1, "kernel_size": 3, "engine": "plain"}
    monkeypatch.setattr(augment, "run_config", lambda model, **more: run_config(model, **more, **tiny))


@pytest.mark.slow
@pytest.mark.usefixtures("_small", "one_thread")
def test_records_of_a_small_run(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--what augment --models convmixer --batch-sizes 8 --image-size 8 --rounds 2 --threads 1 --device cpu"
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments.split(), "--out", str(tmp_path / "records.json")])
    assert stop.value.code == 0
    (record,) = json.loads((tmp_path / "records.json").read_text())
    assert (record["what"], record["model"], record["device"]) == ("augment", "convmixer", "cpu")
    assert 0 < record["slowest"] <= record["images_per_second"] <= record["fastest"]
    assert 0 < record["pillow_slowest"] <= record["pillow_images_per_second"] <= record["pillow_fastest"]
    assert 0 < record["wait_seconds"] < record["step_seconds"]
    table = capsys.readouterr().out
    assert "Pillow, 2 workers" in table
    assert "waiting" in table


@pytest.mark.usefixtures("_small", "one_thread")
def test_speeds_and_ratios_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rounds after one that warms up: the ratio within a round is what counts."""
    rates = iter([1.0, 1.0, 100.0, 10.0, 400.0, 20.0, 90.0, 30.0])  # ours and Pillow's in turn
    monkeypatch.setattr(augment, "DataLoader", lambda *_, **__: [])
    monkeypatch.setattr(augment, "_rate", lambda *_: next(rates))
    monkeypatch.setattr(augment, "_waiting", lambda *_: (0.25, 1.25))
    config = BenchConfig(models=("convmixer",), batch_sizes=(8,), image_size=8, rounds=3, threads=1, device="cpu")
    (record,) = augment.bench_augment(config)
    assert (record.slowest, record.images_per_second, record.fastest) == (90, 100, 400)
    assert (record.pillow_slowest, record.pillow_images_per_second, record.pillow_fastest) == (10, 20, 30)
    assert record.ratio_to_pillow == 10  # of 10, 20 and 3; not 100 / 20
    assert record.wait_share == 0.2


@pytest.mark.parametrize("flag", ["--explain", "--sweep=dim", "--plot=picture.png"])
def test_what_is_about_networks_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--what", "augment", *flag.split("=")])
    assert stop.value.code == 2
    assert "add train or infer" in capsys.readouterr().err.replace("\n", " ")


def test_networks_do_the_rest() -> None:
    assert BenchConfig(what=("augment", "infer")).work == ("infer",)
    assert BenchConfig().work == ("train", "infer")


class Slow:
    """Batches that take ``delay`` seconds of a clock that only they move."""

    chunk = 2

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(4):
            self.clock[0] += 0.25
            yield torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)


def test_waiting_is_told_from_training(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def update(*_: Any) -> None:
        clock[0] += 1.0

    monkeypatch.setattr(augment, "_mark", lambda device: clock[0])
    wait, whole = augment._waiting(Slow(clock), update, torch.device("cpu"))
    assert (wait, whole) == (0.25, 1.25)


def test_both_pipelines_have_the_same_distribution() -> None:
    """Means over many draws, pixel by pixel, of one image that is not symmetric."""
    image = picture_batch(0, 3, 16, 5)[4:].clone()
    image[0, 0] = image[0, 0].T.clone()
    random.seed(0)
    count = 6000
    theirs = torch.stack([from_pillow(pillow.augmented(to_pillow(image[0]))) for _ in range(count)])
    stages = Augment(augment.REFERENCE, mean=(0.5,) * 3, mirror=True)
    stages.transforms = stages.transforms[:-1]
    ours = stages.apply(image.repeat(count, 1, 1, 1), [stages.sample(batch(count, 16))])
    spread = 255 / 2 * (2 / count) ** 0.5
    assert (ours.double().mean(0) - theirs.double().mean(0)).abs().max() < 5 * spread
    assert (ours.double().std(0) - theirs.double().std(0)).abs().max() < 5 * spread


def test_images_are_normalised_and_erased() -> None:
    random.seed(0)
    levels = np.full((400, 8, 8, 3), 255, dtype=np.uint8)
    images = pillow.RivalImages(levels, [7] * 400, pillow.PillowTransform((0.5,) * 3, (0.25,) * 3))
    assert len(images) == 400
    pixels = torch.stack([images[index][0] for index in range(400)])
    assert pixels.shape == (400, 3, 8, 8)
    assert float(pixels.max()) == 2.0
    assert float(pixels.min()) == -2.0
    assert images[0][1] == 7
    erased = [float((image == 0).any()) for image in pixels]
    assert 0.15 < sum(erased) / 400 < 0.35


def test_images_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow, "STEPS", 0)
    monkeypatch.setattr(pillow, "PADDING", 0)
    monkeypatch.setattr(random, "random", lambda: 0.9)
    image = picture_batch(0, 3, 9, 1)[0]
    assert torch.equal(from_pillow(pillow.augmented(to_pillow(image))), image)
    assert isinstance(to_pillow(image), Image.Image)


def test_torchvision_is_the_rival_where_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its transforms by name and argument, in their order; a stand-in, as it needs its own version of PyTorch."""
    made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def stand_in(name: str) -> Callable[..., str]:
        def make(*arguments: Any, **options: Any) -> str:
            made.append((name, arguments, options))
            return name

        return make

    names = ("RandomCrop", "RandomHorizontalFlip", "RandAugment", "ToTensor", "Normalize", "RandomErasing")
    module: Any = types.ModuleType("torchvision")
    module.transforms = types.SimpleNamespace(Compose=tuple, **{name: stand_in(name) for name in names})
    monkeypatch.setitem(sys.modules, "torchvision", module)
    transform: Any
    name, transform = pillow.rival_transform(32, (0.5,) * 3, (0.25,) * 3)
    assert (name, list(transform)) == ("torchvision", list(names))
    assert made[0] == ("RandomCrop", (32,), {"padding": 4})
    assert made[2] == ("RandAugment", (2, 12), {})
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert pillow.rival_transform(32, (0.5,), (0.25,)) == ("Pillow", pillow.PillowTransform((0.5,), (0.25,)))


def test_torchvision_has_the_same_distribution() -> None:
    pytest.importorskip("torchvision", reason="needs torchvision", exc_type=Exception)
    image, count = to_pillow(picture_batch(0, 3, 16, 1)[0]), 6000
    name, theirs = pillow.rival_transform(16, (0.5,) * 3, (0.25,) * 3)
    assert name == "torchvision"
    ours = pillow.PillowTransform((0.5,) * 3, (0.25,) * 3)
    means = [torch.stack([pipeline(image) for _ in range(count)]).mean(0) for pipeline in (theirs, ours)]
    assert (means[0] - means[1]).abs().max() < 5 * 2 * (2 / count) ** 0.5
