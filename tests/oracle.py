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


def freq_fusion(layer, hr_feat, lr_feat):
    """The published forward pass, step by step, for the default switches and any ratio of sizes."""
    low_args = layer.lowpass_kernel, layer.up_group, layer.hamming_lowpass, layer.padding_mode
    high_args = layer.highpass_kernel, layer.up_group, layer.hamming_highpass, layer.padding_mode
    hr, lr = layer.hr_channel_compressor(hr_feat), layer.lr_channel_compressor(lr_feat)
    high = layer.content_encoder2(hr)
    hr = 2 * hr - adaptive_filter(hr, high, *high_args)
    low = layer.content_encoder(hr)
    low = low + adaptive_filter(layer.content_encoder(lr), low, *low_args)
    high = high + adaptive_filter(layer.content_encoder2(lr), low, *low_args)
    fine = 2 * hr_feat - adaptive_filter(hr_feat, high, *high_args)
    coarse = adaptive_filter(lr_feat, low, *low_args)
    return fine, resample(layer.dysampler, hr, lr, coarse)


def resample(generator, hr, lr, feature):
    """The offset generator and its sampling, a channel group and a corner of pixels at a time."""
    (height, width), (h, w) = hr.shape[2:], lr.shape[2:]
    rows, cols = torch.arange(height) * 2 * h // height, torch.arange(width) * 2 * w // width
    sums = []
    for name in ("offset", "direct_scale"):
        maps = []
        for side, x, norm in (("hr_", hr, generator.norm_hr), ("", lr, generator.norm_lr)):
            x = norm(x)
            similarity = local_similarity(x)
            if generator.mode == "sim_concat":
                x = torch.cat((x, similarity), 1)
            elif name == "offset":
                x = similarity
            maps.append(getattr(generator, side + name)(x))
        sums.append(maps[0] + F.pixel_shuffle(maps[1], 2)[:, :, rows][:, :, :, cols])
    offset = sums[0] * sums[1].sigmoid()
    out = []
    for group, part in enumerate(feature.chunk(generator.groups, 1)):
        x = torch.arange(width) + offset[:, group] * width / w
        y = torch.arange(height)[:, None] + offset[:, generator.groups + group] * height / h
        x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
        total = 0
        for i in range(height):
            for j in range(width):
                near = (1 - (y - i).abs()).clamp(min=0) * (1 - (x - j).abs()).clamp(min=0)
                total = total + near[:, None] * part[:, :, i : i + 1, j : j + 1]
        out.append(total)
    return torch.cat(out, 1)
