"""Reading weights: safetensors or PyTorch files, in timm's key layout (ours) or the paper's ``nn.Sequential`` layout.

No file is ever unpickled in a way that could run code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convmixer.errors import InputError
from convmixer.manifest import Manifest, read_record

_WRAPPERS = ("state_dict", "model", "state_dict_ema")  # where training scripts put the weights in what they save
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")  # of wrappers around the model
_NOT_WEIGHTS = re.compile(r"optim|sched|scaler|loss|rng", re.IGNORECASE)  # what else a checkpoint holds tensors in
_DEPTH = 4  # of dictionaries in which a state_dict is looked for

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_PAPERS = re.compile(
    rf"stem\.(0\.(weight|bias)|2\.{_NORM})|head\.(weight|bias)"
    rf"|blocks\.\d+\.(0\.fn\.(0\.(weight|bias)|2\.{_NORM})|1\.(weight|bias)|3\.{_NORM})"
)
"""Our names of what the paper's network has."""

# What checkpoints hold beside tensors. None of these classes is used: a stand-in takes the place of each.
_HARMLESS = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|pathlib\.\w+|datetime\.\w+|omegaconf\.[\w.]+|easydict\.EasyDict"
    r"|numpy\.(_?core\.multiarray\.(scalar|_reconstruct)|dtype|ndarray|dtypes\.\w+|float64)"
)


class _StandIn:
    """Takes the place of an object in a file, with whatever it was to be made of."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copies the weights in ``path`` into ``model``, whatever public layout they are in.

    Args:
        model: a ConvMixer; only changed if everything fits.
        path: a ``.safetensors`` file, or one written by ``torch.save`` that holds tensors only.

    Raises:
        InputError: unreadable file, or keys or shapes that differ from the model's (the message names them).
    """
    path = Path(path)
    own, state = model.state_dict(), to_own_layout(read_state_dict(path))
    # Steps that batch normalisation counted, which no result depends on; some tools leave them out.
    state = {key: value for key, value in own.items() if key.endswith(".num_batches_tracked")} | state
    mismatch = describe_mismatch(own, state)
    if mismatch:
        raise InputError(f"{path}: these weights do not fit the model: {mismatch}.")
    model.load_state_dict(state)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The named tensors in a safetensors or PyTorch file, without the prefixes of wrappers around the model.

    A checkpoint may hold other things beside them. Of several sets of tensors that under ``state_dict`` or ``model``
    counts.

    Raises:
        InputError: no such file, not readable without running code in it, damaged, no or several sets of tensors,
            or tensors that are sparse or not finite.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .safetensors or .pt file with weights.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    found = list(_sets_of_tensors(content))
    if not found:
        raise InputError(f"{path}: holds no state_dict (a mapping of names to tensors); save model.state_dict().")
    if len(found) > 1:
        names = ", ".join(_shown(name) for name, _ in found)
        raise InputError(f"{path}: holds several sets of weights ({names}); save one of them alone.")
    state = _without_prefixes(found[0][1])
    for name, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.device.type != "cpu":
            raise InputError(f"{path}: {_shown(name)} is not a dense tensor of real numbers; save model.state_dict().")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(
                f"{path}: {_shown(name)} has values that are not finite; the file is damaged or training diverged."
            )
    return state


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load, load_file

    try:
        return load(read_record(path) or b"") if Manifest(path.parent).path.exists() else load_file(path)
    except InputError:
        raise
    except Exception as error:  # any, as below
        raise InputError(f"{path}: cannot be read as weights ({_reason(error)}); is the file whole?") from error


def _read_pickle(path: Path) -> Any:
    try:
        unknown = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # files of before 2020; loading them says what they hold
        unknown = []
    harmful = [name for name in unknown if not _HARMLESS.fullmatch(name)]
    if harmful:
        names = ", ".join(map(_shown, harmful[:3])) + (", …" if len(harmful) > 3 else "")
        raise InputError(
            f"{path}: cannot be read as weights without running code in it (it holds objects of {names}); "
            "save the state_dict alone, best as .safetensors."
        )
    try:
        with torch.serialization.safe_globals([(_StandIn, name) for name in unknown]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything
        raise InputError(
            f"{path}: cannot be read as weights without running code in it, or is damaged ({_reason(error)}); "
            "save the state_dict alone, best as .safetensors."
        ) from error


def _reason(error: Exception) -> str:
    text = str(error).strip()
    if "weights_only" in text or "weights only" in text.lower():
        return "not a file of tensors"
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def _shown(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def _sets_of_tensors(content: Any, name: str = "the file itself", depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    """The dictionaries of names to tensors in nested dictionaries."""
    if not isinstance(content, dict) or not content:
        return
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        yield name, content
    elif depth:
        for key, value in content.items():
            if not _NOT_WEIGHTS.search(str(key)):
                yield from _sets_of_tensors(value, str(key), depth - 1)


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names they have in the model, whatever it was wrapped into."""
    state = {key.replace("._orig_mod.", "."): value for key, value in state.items()}
    stems = [key.removesuffix("stem.0.weight") for key in state if key.endswith(".stem.0.weight")]
    if len(stems) == 1:  # the model may be an attribute of any name; what lies beside it is left to be complained of
        return {key.removeprefix(stems[0]): value for key, value in state.items()}
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def to_own_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
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


def to_papers_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames our keys to those of the paper's ``nn.Sequential``: the inverse of :func:`to_own_layout`.

    Raises:
        InputError: parts that the paper's network does not have, such as another head or branch.
    """
    blocks = [int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key))]
    classifier = max(blocks, default=-1) + 6  # after the last block pooling and flattening
    renamed = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if part == "blocks":
            number, _, rest = rest.partition(".")
            name = f"{int(number) + 3}.{rest}"
        else:
            name = rest if part == "stem" else f"{classifier}.{rest}"
        if not _PAPERS.fullmatch(key):
            raise InputError(
                f"{_shown(key)} has no place in the paper's layout, which is that of a linear head and depthwise "
                "branches; write the weights in timm's."
            )
        renamed[name] = value
    return renamed


def describe_mismatch(expected: dict[str, Tensor], given: dict[str, Tensor], most: int = 4) -> str:
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
        f"{len(keys)} {kind} ({', '.join(map(_shown, keys[:most]))}{', …' if len(keys) > most else ''})"
        for kind, keys in kinds.items()
        if keys
    )
