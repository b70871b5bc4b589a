"""A training pass with the fast engine makes the process keep its memory, unless that is turned off."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_CODE = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
import torch
import convmixer

def resident():
    # MiB, after 64 of them were taken and given back
    torch.ones(1 << 24)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20

model = convmixer.create_model("convmixer", dim=8, depth=1, kernel_size=3, engine="fast")
model.eval()
with torch.no_grad():
    model(torch.randn(2, 3, 8, 8))
before = resident()
for _ in range(2):
    model.train()(torch.randn(2, 3, 8, 8)).sum().backward()
print("grown", resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("allocator", ["", "system"])
def test_memory_is_kept_from_the_first_training_pass_on(allocator: str) -> None:
    environment = {**os.environ, "CONVMIXER_ALLOCATOR": allocator}
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, env=environment, check=True)
    grown = int(done.stdout.split()[-1])
    if allocator == "system":
        assert grown < 32
        assert "keep freed memory" not in done.stdout
    else:
        assert grown >= 60
        assert done.stdout.count("keep freed memory") == 1
