"""How flags become values, beyond what tyro does by itself."""

from __future__ import annotations

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from convmixer.config import RENAMED, PerBlock, per_block_text
from convmixer.errors import InputError
from convmixer.search.space import SHORT

RULES = ConstructorRegistry()

_ALIASES = {**SHORT, **RENAMED}
"""Short names, flags that the study's document and older versions have, and what they are called now."""


@RULES.primitive_rule
def _per_block(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[PerBlock] | None:
    """One number, or one for each block with commas between them."""
    if info.type != PerBlock and info.type != int | tuple[int, ...]:
        return None

    def parsed(words: list[str]) -> PerBlock:
        try:
            numbers = tuple(int(part) for part in words[0].split(","))
        except ValueError:
            raise ValueError(f"{words[0]!r} is neither a whole number nor several with commas between them") from None
        return numbers[0] if len(numbers) == 1 else numbers

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT[,INT,...]",
        instance_from_str=parsed,
        is_instance=lambda value: isinstance(value, (int, tuple)),
        str_from_instance=lambda value: [per_block_text(value)],
    )


def current_flag(argument: str) -> str:
    """A word of the command line with a flag's present name.

    Raises:
        InputError: a flag that has become two.
    """
    flag, equals, value = argument.partition("=")
    if not flag.startswith("--"):
        return argument
    name = flag[2:].replace("-", "_")
    if name == "variant":
        raise InputError("--variant: is now two flags; give `head` (rh, lc) or `branch` (bottleneck).")
    return f"--{_ALIASES[name].replace('_', '-')}{equals}{value}" if name in _ALIASES else argument
