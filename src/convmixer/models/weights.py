"""Reading weights: safetensors or PyTorch files, in timm's key layout (ours) or the paper's ``nn.Sequential`` layout.

No file is ever unpickled in a way that could run code.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from torch import nn

from convmixer.errors import InputError

_WRAPPERS = ("state_dict", "model", "state_dict_ema")  # where training scripts put the weights in what they save


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copies the weights in ``path`` into ``model``, whatever public layout they are in.

    Args:
        model: a ConvMixer; only changed if everything fits.
        path: a ``.safetensors`` file, or one written by ``torch.save`` that holds tensors only.

    Raises:
        InputError: unreadable file, or keys or shapes that differ from the model's (the message names them).
    """
    path = Path(path)
    state = to_own_layout(read_state_dict(path))
    mismatch = describe_mismatch(model.state_dict(), state)
    if mismatch:
        raise InputError(f"{path}: these weights do not fit the model: {mismatch}.")
    model.load_state_dict(state)


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The named tensors in a safetensors or PyTorch file. Raises InputError if it is neither or holds more."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .safetensors or .pt file with weights.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path}: cannot be read as weights without running code in it ({reason}); "
            "save the state_dict alone, best as .safetensors."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise InputError(f"{path}: holds no state_dict (a mapping of names to tensors); save model.state_dict().")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def to_own_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames the keys of the paper's ``nn.Sequential``; any other layout is returned as it is.

    In the paper's layout 0 and 2 are the stem's convolution and normalisation, 3 … depth + 2 the blocks, and
    depth + 5, after pooling and flattening, the classifier.
    """
    if "0.weight" not in state:
        return state
    numbers = {int(match[1]) for key in state if (match := re.match(r"(\d+)\.", key))}
    classifier = max(numbers)

    def renamed(key: str) -> str:
        number, _, rest = key.partition(".")
        if not number.isdigit():
            return key
        position = int(number)
        if position < 3:
            return f"stem.{key}"
        return f"head.{rest}" if position == classifier else f"blocks.{position - 3}.{rest}"

    return {renamed(key): value for key, value in state.items()}


def describe_mismatch(expected: dict[str, torch.Tensor], given: dict[str, torch.Tensor], most: int = 4) -> str:
    """What keeps ``given`` from being loaded in place of ``expected``, or '' if nothing does."""
    shapes = [
        f"{key} is {list(given[key].shape)}, not {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in given and given[key].shape != tensor.shape
    ]
    kinds = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "of another shape": shapes,
    }
    return "; ".join(
        f"{len(keys)} {kind} ({', '.join(keys[:most])}{', …' if len(keys) > most else ''})"
        for kind, keys in kinds.items()
        if keys
    )
