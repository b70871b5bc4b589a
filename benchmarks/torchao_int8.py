"""Whether torchao's int8 is worth offering: ``pip install torchao``, then ``python benchmarks/torchao_int8.py RUN``.

A run is quantised after training with PT2E and the quantizer for x86, compiled, and compared with itself in float32, in
turns: batches of 128 on all threads, and accuracy on the run's test images.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convmixer.bench import timing
from convmixer.deploy.source import Source
from convmixer.runs import RunDir
from convmixer.runs.data import load_own_data

BATCH, CALIBRATION, ROUNDS = 128, 512, 15
CPU = torch.device("cpu")
Network = Callable[[Tensor], Tensor]


def quantized(network: torch.nn.Module, images: Tensor) -> Network:
    """The network in 8 bits, compiled; ranges are those of normalised images (N, C, H, W)."""
    pt2e: Any = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    x86: Any = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    lowering: Any = importlib.import_module("torchao.quantization.pt2e.lowering")
    exported = torch.export.export(network, (images[:BATCH],), strict=False).module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = pt2e.prepare_pt2e(exported, quantizer)
    for part in images.split(BATCH):
        prepared(part)
    lowered: Network = lowering.lower_pt2e_quantized_to_x86(pt2e.convert_pt2e(prepared), (images[:BATCH],))
    return lowered


def main() -> None:
    """Prints what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    run = RunDir.existing(args.run)
    splits, deployed = load_own_data(run).splits, Source.of_run(run).answers.deployed
    network = deployed.model.eval().requires_grad_(requires_grad=False)
    normalize = deployed.normalize
    with torch.no_grad():
        images = normalize(splits["train"].images[:CALIBRATION])
        test = normalize(splits["test"].images)
        test = test[: len(test) // BATCH * BATCH]  # compiled for whole batches
        labels = splits["test"].labels[: len(test)]
        networks: dict[str, Network] = {
            "float32, called": network,
            "float32, compiled": torch.compile(network),
            "int8, compiled": quantized(network, images),
        }
        rows: dict[str, dict[str, float]] = {}
        for name, one in networks.items():
            answers = torch.cat([one(part.clone()).argmax(1) for part in test.split(BATCH)])
            rows[name] = {"accuracy": float((answers == labels).double().mean()), "images": len(labels)}
        seconds: dict[str, list[float]] = {name: [] for name in networks}
        for _ in range(ROUNDS):
            for name, one in networks.items():
                seconds[name].append(timing.seconds_of(partial(one, images[:BATCH]), 1, CPU))
        for name, row in rows.items():
            row["images_per_second"] = BATCH / statistics.median(seconds[name])
    machine = timing.this_machine(CPU, torch.get_num_threads())
    result = {"torchao": importlib.import_module("torchao").__version__, "rows": rows, "machine": vars(machine)}
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
