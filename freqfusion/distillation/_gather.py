"""Images of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def gather_images(x: Tensor) -> tuple[Tensor, int]:
    """Returns the images (B, ...) of all processes, and where those of this one begin.

    The processes may have different numbers of images. No gradient flows back.

    Raises:
        ValueError: in all processes, if their images differ in shape.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return x, 0
    mine = torch.tensor(x.shape, device=x.device)
    shapes = torch.stack(_all_gather(mine)).tolist()
    counts = [count for count, *_ in shapes]
    if any(shape != shapes[0][1:] for _, *shape in shapes):
        raise ValueError(
            "gather must be False if the maps of the processes differ in shape, "
            f"got {[tuple(shape) for shape in shapes]}"
        )
    images = F.pad(x, [0] * (2 * x.dim() - 1) + [max(counts) - len(x)])  # collectives need equals
    gathered = [part[:count] for part, count in zip(_all_gather(images), counts, strict=True)]
    return torch.cat(gathered), sum(counts[: dist.get_rank()])


def _all_gather(x: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return parts
