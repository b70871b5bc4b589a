"""Operations on uint8 images, pixel for pixel what Pillow does to one image at a time.

Each takes a batch with an argument of its own for each image, and computes in integers or in float32 with Pillow's own
roundings: the results on a CPU and on a GPU are the same bits. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

ImageFunction = Callable[[Tensor, Tensor], Tensor]
"""Changes (M, C, H, W) uint8 images, each according to its own argument, (M, ...)."""


def copy_to_device(tensors: Iterable[Tensor], device: torch.device) -> list[Tensor]:
    """CPU tensors on ``device``, moved together in one asynchronous copy."""
    sources = [tensor.contiguous() for tensor in tensors]
    # Every tensor starts at a multiple of 8 bytes: a view as its own type has to be aligned.
    starts = list(accumulate((-(-source.nbytes // 8) * 8 for source in sources), initial=0))
    # A copy from pageable memory would wait for all earlier work of the GPU.
    buffer = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    for start, source in zip(starts, sources, strict=False):
        buffer[start : start + source.nbytes] = source.flatten().view(torch.uint8)
    buffer = buffer.to(device, non_blocking=device.type == "cuda")
    return [
        buffer[start : start + source.nbytes].view(source.dtype).view(source.shape)
        for start, source in zip(starts, sources, strict=False)
    ]


def apply_groups(images: Tensor, groups: Iterable[tuple[ImageFunction, Tensor, Tensor]]) -> Tensor:
    """Images (N, C, H, W) after each function has changed its group.

    Args:
        images: (N, C, H, W) uint8, left as they are.
        groups: Function, indices of its images, (M,) int64, and their arguments, (M, ...), both on the CPU. The groups
            are disjoint.
    """
    chosen = [group for group in groups if len(group[1])]
    if not chosen:
        return images
    functions, members, arguments = zip(*chosen, strict=True)
    others = torch.ones(len(images), dtype=torch.bool)
    others[torch.cat(members)] = False
    order = torch.cat([*members, others.nonzero().flatten()])
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    # Sorted by group, changed, and put back: copying each group to its places would take several times longer.
    order, back, *moved = copy_to_device([order, back, *arguments], images.device)
    parts = images.index_select(0, order).split([*map(len, members), len(images) - sum(map(len, members))])
    changed = [function(part, argument) for function, part, argument in zip(functions, parts, moved, strict=False)]
    return torch.cat([*changed, parts[-1]]).index_select(0, back)


# Geometry.


def fixed_point(*matrix: Tensor | float) -> Tensor:
    """Affine maps as Pillow follows them, in units of 2**-16 pixels.

    Args:
        matrix: a, b, c, d, e, f, each (M,) float64 or one number for all. The pixel at column x and row y of the result
            comes from column a x + b y + c and row d x + e y + f, measured to the pixels' corners.

    Returns:
        (M, 6) int32; c and f now count from centre to centre.
    """
    count = max(len(value) for value in matrix if isinstance(value, Tensor))
    values = torch.empty(6, count, dtype=torch.float64)
    for row, value in zip(values, matrix, strict=True):
        row[:] = value
    for offset, factors in ((2, (0, 1)), (5, (3, 4))):
        for factor in factors:
            values[offset] += values[factor] * 0.5
    return (values.T * 65536 + 0.5).floor().to(torch.int32)


def affine(images: Tensor, matrix: Tensor) -> Tensor:
    """The nearest source pixel under each map of :func:`fixed_point`, black outside the image."""
    channels, height, width = images.shape[1:]
    x = torch.arange(width, dtype=torch.int32, device=images.device)
    y = torch.arange(height, dtype=torch.int32, device=images.device)
    a, b, c, d, e, f = matrix[:, :, None].unbind(1)
    column = (a * x + c)[:, None] + (b * y)[:, :, None]
    row = (d * x + f)[:, None] + (e * y)[:, :, None]
    # All that lies outside is read from a frame of black pixels around the image.
    column.bitwise_right_shift_(16).clamp_(-1, width)
    row.bitwise_right_shift_(16).clamp_(-1, height)
    source = row.add_(1).mul_(width + 2).add_(column).add_(1).long().flatten(1)
    framed = F.pad(images, (1, 1, 1, 1)).flatten(2)
    return framed.gather(2, source[:, None].expand(-1, channels, -1)).view_as(images)


def framed_windows(images: Tensor, top: Tensor, left: Tensor, frame: int) -> Tensor:
    """Windows of the images' size into the images with a black ``frame``, their upper left pixels given, (N,) int64."""
    size = images.shape[2]
    framed = F.pad(images, (frame,) * 4)
    # Each line of a window is a stretch of the memory: fetched as a whole, which is many times faster than by pixels.
    stretches = framed.as_strided((max(0, framed.numel() - size + 1), size), (1, 1))
    width = size + 2 * frame
    first = _planes(images) * width**2 + (top * width + left).view(-1, 1, 1)
    lines = first + torch.arange(size, device=images.device) * width
    return stretches.index_select(0, lines.flatten()).view_as(images)


def reflected_windows(images: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Windows of the images' size that begin at ``top`` and ``left``, (N,) int64; numpy's ``reflect`` outside."""
    size = images.shape[2]
    place = torch.arange(size, device=images.device)
    turn = 2 * size - 2
    rows, columns = ((start[:, None] + place).abs() % turn for start in (top, left))
    rows, columns = (torch.minimum(position, turn - position) for position in (rows, columns))
    lines = _planes(images) * size + rows[:, None]
    rows_chosen = images.flatten(0, 2).index_select(0, lines.flatten()).view_as(images)
    return rows_chosen.gather(3, columns[:, None, None].expand(images.shape))


def _planes(images: Tensor) -> Tensor:
    """The number of each channel of each image: (N, C, 1) int64."""
    count, channels = images.shape[:2]
    return torch.arange(count * channels, device=images.device).view(count, channels, 1)


def where_u8(mask: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """``torch.where(mask, images, others)`` for uint8, but faster."""
    return others ^ ((others ^ images) * mask)


def fill(images: Tensor, rectangle: Tensor) -> Tensor:
    """A rectangle of one colour in each image: (M, 4 + C) int64, top, left, height, width, level of each channel."""
    top, left, height, width = rectangle[:, :4, None].unbind(1)
    place = torch.arange(images.shape[-1], device=images.device)
    rows, columns = ((place >= start) & (place < start + length) for start, length in ((top, height), (left, width)))
    colour = rectangle[:, 4:, None, None].to(torch.uint8)
    return where_u8(rows[:, None, :, None] & columns[:, None, None, :], colour, images)


# Colour.


def grey(images: Tensor) -> Tensor:
    """Luma of ITU-R BT.601 in 16-bit fixed point. (M, C, H, W) uint8 -> (M, 1, H, W) int32."""
    levels = images.to(torch.int32)
    if images.shape[1] == 1:
        return levels
    red, green, blue = levels.unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16)[:, None]


def _blend(degenerate: Tensor | float, images: Tensor, factor: Tensor) -> Tensor:
    """From ``degenerate`` (factor 0) through the image (1) and beyond: float32, cut to [0, 255], fraction dropped."""
    mixed = degenerate + factor.view(-1, 1, 1, 1) * (images.float() - degenerate)
    return mixed.clamp_(0, 255).to(torch.uint8)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from black by ``factor``, (M,) float32."""
    return _blend(0.0, images, factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from the grey image by ``factor``, (M,) float32; leaves a grey one as it is."""
    return _blend(grey(images).float(), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from the image's mean grey, rounded, by ``factor``, (M,) float32."""
    pixels = images.shape[2] * images.shape[3]
    total = grey(images).sum((1, 2, 3), keepdim=True)
    return _blend(((2 * total + pixels) // (2 * pixels)).float(), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from the smoothed image by ``factor``, (M,) float32.

    The smoothing kernel is 3×3, 5 in the middle and 1 elsewhere, over 13. The image's outermost pixels stay.
    """
    levels = images.to(torch.int16)
    middle = levels[:, :, 1:-1, 1:-1]
    rows = levels[:, :, :-2] + levels[:, :, 1:-1] + levels[:, :, 2:]
    weighted = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * middle
    smooth = images.float()
    # Rounded; no multiple of 1/13 lies near a half, so that Pillow's float32 arrives at the same integer.
    smooth[:, :, 1:-1, 1:-1] = ((weighted + 6) // 13).float()
    return _blend(smooth, images, factor)


def posterize(images: Tensor, mask: Tensor) -> Tensor:
    """Keeps the bits of ``mask``, (M,) uint8."""
    return images & mask.view(-1, 1, 1, 1)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Inverts the levels from ``threshold``, (M,) uint8, on."""
    return images ^ (images >= threshold.view(-1, 1, 1, 1)).to(torch.uint8).mul_(255)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretches each channel's levels to the whole range; a constant channel stays."""
    # Pillow works in float64, and its roundings show where the exact value is an integer. MPS has no float64.
    exact = torch.device("cpu") if images.device.type == "mps" else images.device
    low, high = (level.to(exact).double()[..., None] for level in (images.amin(dim=(2, 3)), images.amax(dim=(2, 3))))
    levels = torch.arange(256, dtype=torch.float64, device=exact)
    scale = levels[-1] / (high - low).clamp(min=1)  # of tensors: a number over a tensor would be rounded twice
    stretched = (levels * scale + -low * scale).clamp(0, 255)
    return _look_up(images, torch.where(high > low, stretched, levels).to(torch.uint8).to(images.device))


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Spreads each channel's levels so that their histogram is nearly flat.

    A level becomes the number of darker pixels in units of a 255th of all pixels but the brightest ones. Where that
    unit is less than a pixel (constant channels, images below 16×16) the channel stays.
    """
    levels = images.flatten(2)
    ones = torch.ones((), dtype=torch.int32, device=images.device).expand_as(levels)
    histogram = ones.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels.long(), ones)
    brightest = histogram.gather(2, levels.amax(2, keepdim=True).long())
    step = (levels.shape[2] - brightest) // 255
    darker = histogram.cumsum(2, dtype=torch.int32) - histogram
    spread = ((step // 2 + darker) // step.clamp(min=1)).clamp(max=255)
    unchanged = torch.arange(256, dtype=torch.int32, device=images.device)
    return _look_up(images, torch.where(step > 0, spread, unchanged).to(torch.uint8))


def _look_up(images: Tensor, table: Tensor) -> Tensor:
    """Each level replaced as ``table``, (M, C, 256) uint8, says."""
    return table.gather(2, images.flatten(2).long()).view_as(images)
