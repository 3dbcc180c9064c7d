"""What the operators compute, written so that it is easy to believe; differentiated by autograd."""

import torch
import torch.nn.functional as F


def reassemble(x, weight, kernel_size, groups=1, padding_mode="zeros"):
    batch, channels, h, w = x.shape
    height, width = weight.shape[2:]
    rows, cols = torch.arange(height) * h // height, torch.arange(width) * w // width
    padded = pad(x, kernel_size // 2, padding_mode)
    out = x.new_zeros(batch, groups, channels // groups, height, width)
    for tap in range(kernel_size**2):
        p, q = divmod(tap, kernel_size)
        kernels = weight.unflatten(1, (groups, kernel_size**2))[:, :, None, tap]
        taps = padded[:, :, rows + p][:, :, :, cols + q]
        out = out + kernels * taps.unflatten(1, (groups, channels // groups))
    return out.flatten(1, 2)


def adaptive_filter(x, logits, kernel_size, groups=1, window=None, padding_mode="zeros"):
    weight = logits.unflatten(1, (groups, kernel_size**2)).softmax(2)
    if window is not None:
        weight = weight * window.reshape(-1, 1, 1)
        weight = weight / weight.sum(2, keepdim=True)
    return reassemble(x, weight.flatten(1, 2), kernel_size, groups, padding_mode)


def pad(x, radius, padding_mode):
    if padding_mode == "zeros":
        return F.pad(x, [radius] * 4)
    for dim in (2, 3):
        x = x.index_select(dim, torch.tensor(mirrored(x.shape[dim], radius)))
    return x


def mirrored(size, radius):
    """Indices of a walk that turns round at both ends, from -radius to size + radius - 1."""
    walk = [*range(size), *range(size - 2, 0, -1)] or [0]
    return [walk[i % len(walk)] for i in range(-radius, size + radius)]


def local_similarity(x, dilation=2):
    height, width = x.shape[2:]
    padded = F.pad(x, [dilation] * 4)
    steps = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    shifted = [
        padded[:, :, i * dilation : i * dilation + height, j * dilation : j * dilation + width]
        for i, j in steps
    ]
    return torch.stack([F.cosine_similarity(x, neighbour, dim=1) for neighbour in shifted], 1)
