"""The `reference` recipe as a plain script, to compare with: one nn.Sequential, Pillow in worker processes, one loop.

It shares RandAugment on Pillow images with the benchmark, and nothing else with the package. It reads the folder
PATH/train/<class>/* and PATH/test/<class>/*:

    python benchmarks/plain_script.py PATH --dim 128 --depth 4 --patch-size 4 --kernel-size 5 --epochs 3

trains on all training images and prints a line of JSON for every epoch, test accuracy included.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.utils.data import DataLoader, Dataset

from convmixer.bench.pillow import rand_augment

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class Residual(nn.Module):
    """x + fn(x)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → the same shape."""
        branch: torch.Tensor = self.fn(x)
        return x + branch


def conv_mixer(dim: int, depth: int, kernel_size: int, patch_size: int, n_classes: int) -> nn.Sequential:
    """The paper's network, written as in its section 2."""

    def normalised(conv: nn.Module) -> list[nn.Module]:
        return [conv, nn.GELU(), nn.BatchNorm2d(dim)]

    def block() -> nn.Module:
        depthwise = nn.Conv2d(dim, dim, kernel_size, groups=dim, padding="same")
        return nn.Sequential(Residual(nn.Sequential(*normalised(depthwise))), *normalised(nn.Conv2d(dim, dim, 1)))

    patches = nn.Conv2d(3, dim, patch_size, patch_size)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(dim, n_classes)]
    return nn.Sequential(*normalised(patches), *(block() for _ in range(depth)), *head)


class Folder(Dataset[tuple[torch.Tensor, int]]):
    """All images of PATH/<part>/<class>/*, decoded once; augmented one at a time."""

    def __init__(self, path: Path, augment: bool) -> None:
        classes = sorted(folder.name for folder in path.iterdir())
        files = [(file, label) for label, name in enumerate(classes) for file in sorted((path / name).iterdir())]
        with ThreadPoolExecutor() as pool:
            self.images = np.stack(list(pool.map(lambda item: np.asarray(Image.open(item[0]).convert("RGB")), files)))
        self.labels = [label for _, label in files]
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self.images[index])
        if self.augment:
            image = rand_augment(ImageOps.mirror(image) if random.random() < 0.5 else image)
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
        return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1), self.labels[index]


def accuracy(model: nn.Module, loader: DataLoader[tuple[torch.Tensor, int]], device: str) -> float:
    """Fraction of the loader's images that the model gets right."""
    model.eval()
    with torch.no_grad(), torch.autocast(device, torch.float16, enabled=device == "cuda"):
        correct = [(model(images.to(device)).argmax(1).cpu() == labels).float() for images, labels in loader]
    return torch.cat(correct).mean().item()


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    for name, default in {"dim": 256, "depth": 8, "patch-size": 2, "kernel-size": 5, "epochs": 25, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--flush-denormal", action="store_true", help="treat denormal numbers as zero")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="on cuda in float16, as the original")
    args = parser.parse_args()
    torch.set_flush_denormal(args.flush_denormal)
    torch.manual_seed(args.seed)
    random.seed(args.seed)

    train, test = Folder(args.path / "train", augment=True), Folder(args.path / "test", augment=False)
    loader = DataLoader(train, args.batch_size, shuffle=True, num_workers=args.workers, drop_last=True)
    test_loader = DataLoader(test, args.batch_size)
    model = conv_mixer(args.dim, args.depth, args.kernel_size, args.patch_size, len(set(train.labels)))
    model.to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.005)
    scaler = torch.amp.GradScaler(args.device, enabled=args.device == "cuda")
    for epoch in range(args.epochs):
        model.train()
        start, correct, seen = time.perf_counter(), 0, 0
        for step, (images, labels) in enumerate(loader):
            progress = epoch + (step + 1) / len(loader)
            knots = [0, args.epochs * 2 / 5, args.epochs * 4 / 5, args.epochs]
            optimizer.param_groups[0]["lr"] = float(np.interp(progress, knots, [0, 0.05, 0.05 / 20, 0]))
            images, labels = images.to(args.device), labels.to(args.device)
            with torch.autocast(args.device, torch.float16, enabled=args.device == "cuda"):
                logits = model(images)
                loss = nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            correct += int((logits.argmax(1) == labels).sum())
            seen += len(labels)
        seconds = time.perf_counter() - start
        record = {"epoch": epoch + 1, "train_accuracy": correct / seen, "seconds": round(seconds, 1)}
        print(json.dumps({**record, "test_accuracy": accuracy(model, test_loader, args.device)}), flush=True)


if __name__ == "__main__":
    main()
