"""Feature similarity: how alike the features of a class are, and how unlike those of others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops._checks import check_map, check_odd, check_same_device
from ..ops._geometry import accumulate_dtype, without_autocast
from ._tally import Tally

MEASURES = ("intra", "inter_mean", "inter_max", "margin_mean", "margin_max", "nearest_share")
EPS = 1e-8  # least norm of a vector, as in torch.nn.functional.cosine_similarity
CHUNK = 2**24  # elements of resized features that exist at a time


def feature_similarity(
    features: Tensor,
    labels: Tensor,
    edge_k: int = 5,
    ignore_index: int = 255,
    extent: tuple[int, int] | None = None,
) -> dict:
    """Measures how well a feature map separates the classes of its labels.

    The map is resized to the labels (bilinear). In each image the centre of a class is the mean of
    its pixels' vectors. With cos(pixel, centre) at hand, the measures of a pixel are

    - intra: with the centre of its own class;
    - inter_mean, inter_max: with the centres of the other classes in the image, mean and maximum;
    - margin_mean, margin_max: intra less that;
    - nearest_share: 1 if no other centre is nearer, else 0.

    "all" averages them over all labelled pixels, "boundary" over those near a change of the labels
    (`boundary_band`); centres are always of all pixels. In an image with one class only intra
    counts. A measure without any pixel is None.

    Args:
        features: one map or a batch; half precision is computed in float32.
        labels: class of every pixel, integers.
        edge_k: side of the square that the boundary is dilated with, odd, in pixels of the labels.
        ignore_index: label of the pixels to leave out.
        extent: rows and columns that the map covers, in pixels of the labels, if it goes on below
            and to the right of them, as that of a padded image does; else those of the labels.

    Returns:
        ``images``; ``all`` and ``boundary``, each with ``pixels``, ``pooled`` (mean over pixels),
        ``macro`` (mean over classes of each class's mean over its pixels) and ``classes`` (a list,
        by ``label``); ``centres``: the cosine of a class's centre with the other centres of the
        image, ``inter_mean`` and ``inter_max``, ``pooled`` over classes and images, ``macro`` over
        classes, and ``classes``.

    Shape:
        - features: (C, h, w) or (B, C, h, w); labels: (H, W) or (B, H, W), any size

    Raises:
        ValueError, TypeError: if an argument does not fit.

    Source: the analysis in FreqFusion (TPAMI 2024, arXiv 2408.12879).

    Example:
        >>> features = torch.tensor([[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]])
        >>> found = feature_similarity(features, torch.tensor([[0, 0, 1, 1]]))
        >>> found["all"]["pooled"]["intra"], found["all"]["macro"]["margin_max"]
        (1.0, 1.0)
    """
    meter = FeatureSimilarity(edge_k, ignore_index)
    meter.update(features, labels, extent)
    return meter.compute()


class FeatureSimilarity:
    """`feature_similarity` over many images; see there.

    Args:
        edge_k, ignore_index: see `feature_similarity`.

    Example:
        >>> meter = FeatureSimilarity()
        >>> for _ in range(3):
        ...     meter.update(torch.randn(16, 8, 8), torch.randint(0, 4, (32, 32)))
        >>> meter.compute()["images"]
        3
    """

    def __init__(self, edge_k: int = 5, ignore_index: int = 255):
        check_odd("edge_k", edge_k)
        self.edge_k, self.ignore_index = edge_k, ignore_index
        self.images = 0
        self._regions = {"all": Tally(MEASURES, "pixels"), "boundary": Tally(MEASURES, "pixels")}
        self._centres = Tally(("inter_mean", "inter_max"), "images")

    @torch.no_grad()
    def update(
        self, features: Tensor, labels: Tensor, extent: tuple[int, int] | None = None
    ) -> None:
        """Adds an image or a batch; see `feature_similarity`."""
        if features.dim() == 3 and labels.dim() == 2:
            features, labels = features[None], labels[None]
        extent = tuple(labels.shape[1:]) if extent is None else tuple(extent)
        _check(features, labels, extent)
        with without_autocast(features):
            for feature, label in zip(features, labels.long(), strict=True):
                self.images += 1
                if (label != self.ignore_index).any():
                    self._add(feature, label, extent)

    def compute(self) -> dict:
        """Returns the figures of all images so far; see `feature_similarity`."""
        regions = {
            name: {"pixels": tally.total(), **tally.averages()}
            for name, tally in self._regions.items()
        }
        return {"images": self.images, **regions, "centres": self._centres.averages()}

    def _add(self, feature: Tensor, labels: Tensor, extent: tuple[int, int]) -> None:
        pixels = labels.flatten()
        classes = pixels[pixels != self.ignore_index].unique()
        member = (pixels == classes[:, None]).to(accumulate_dtype(feature))  # (classes, pixels)
        index = member.argmax(0)  # of each pixel's class; of any for ignored ones
        cosine, between = _cosines(feature, labels.shape, member, extent)
        values = _measures(cosine, index)
        band = boundary_band(labels, self.edge_k, self.ignore_index).flatten()
        names, pairs = classes.tolist(), len(classes) > 1
        for tally, inside in zip(self._regions.values(), (member, member * band), strict=True):
            count = (inside > 0).sum(1, keepdim=True)
            counts = torch.cat((count, *[count * pairs] * (len(MEASURES) - 1)), 1)
            tally.add(names, inside @ values.T, counts)
        if pairs:
            others = torch.stack(_of_others(between, torch.arange(len(classes)).to(index)), 1)
            self._centres.add(names, others, torch.ones_like(others))


def boundary_band(labels: Tensor, edge_k: int = 5, ignore_index: int = 255) -> Tensor:
    """Labelled pixels near a change of the labels.

    A change is where the Laplacian of some class's mask, over the 3x3 neighbourhood, is not zero.
    Ignored pixels are a class of their own there. The change is dilated with a square.

    Args:
        labels: integers, (H, W).
        edge_k: side of the square, odd.
        ignore_index: label of the pixels that are never in the band.

    Returns:
        A boolean map, (H, W).

    Example:
        >>> boundary_band(torch.tensor([[0, 0, 0, 1, 1, 1, 255]]), edge_k=1).int()
        tensor([[0, 0, 1, 1, 0, 1, 0]], dtype=torch.int32)
    """
    check_odd("edge_k", edge_k)
    x = labels[None, None].float()
    change = F.max_pool2d(x, 3, 1, 1) != -F.max_pool2d(-x, 3, 1, 1)
    dilated = F.max_pool2d(change.float(), edge_k, 1, edge_k // 2) > 0
    return dilated[0, 0] & (labels != ignore_index)


def _cosines(
    feature: Tensor, size: tuple[int, int], member: Tensor, extent: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Cosines of the centres with the pixels, (classes, pixels), and with one another.

    Channels go through in chunks: products and norms add up over them, the resized map never exists
    as a whole.
    """
    dots = torch.zeros_like(member)
    power = dots.new_zeros(member.shape[1])
    gram = dots.new_zeros(len(member), len(member))
    for chunk in feature.split(max(1, CHUNK // (extent[0] * extent[1]))):
        x = F.interpolate(chunk[None].to(member.dtype), extent, mode="bilinear")[0]
        x = x[:, : size[0], : size[1]].flatten(1)  # (channels, pixels)
        centres = member @ x.T  # sums, which point to where the means do
        dots.addmm_(centres, x)
        power += x.square().sum(0)
        gram.addmm_(centres, centres.T)
    pixel_norm = power.sqrt().clamp(min=EPS)
    centre_norm = gram.diag().sqrt().clamp(min=EPS)
    between = gram / torch.outer(centre_norm, centre_norm)
    return dots.div_(pixel_norm).div_(centre_norm[:, None]), between


def _measures(cosine: Tensor, index: Tensor) -> Tensor:
    """MEASURES of each pixel, (measures, pixels); those with other classes are 0 if none is."""
    intra = cosine.gather(0, index[None])[0]
    if len(cosine) == 1:
        return torch.stack((intra, *[torch.zeros_like(intra)] * 5))
    mean, nearest = _of_others(cosine, index)
    is_nearest = (intra >= nearest).to(intra.dtype)
    return torch.stack((intra, mean, nearest, intra - mean, intra - nearest, is_nearest))


def _of_others(cosine: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and maximum of each column without the row that `index` names."""
    own = cosine.gather(0, index[None])[0]
    others = cosine.scatter(0, index[None], -torch.inf)
    return (cosine.sum(0) - own) / (len(cosine) - 1), others.amax(0)


def _check(features: Tensor, labels: Tensor, extent: tuple[int, int]) -> None:
    check_map("features", features)
    if labels.dim() != 3 or labels.is_floating_point() or len(labels) != len(features):
        raise ValueError(
            "labels must be integers (B, H, W) with the batch size of features, or (H, W) if those "
            f"are (C, h, w), got {labels.dtype} {tuple(labels.shape)} for {tuple(features.shape)}"
        )
    check_same_device("labels", labels, "features", features)
    if len(extent) != 2 or extent[0] < labels.shape[1] or extent[1] < labels.shape[2]:
        raise ValueError(
            f"extent must be at least the size of labels, {tuple(labels.shape[1:])}, got {extent}"
        )
