"""Contrastive losses between a student layer, the teacher layer and others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops._checks import check_between
from ..ops._geometry import accumulate_dtype, without_autocast
from ._gather import gather_images

_SHORT = 1e-3  # below this length a band is nothing but rounding errors


def unit(x: Tensor) -> Tensor:
    """Images (B, ...) as vectors (B, N) of length one, in float32 at least; zero stays zero."""
    return F.normalize(x.to(accumulate_dtype(x)).flatten(1), dim=1, eps=_SHORT)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine similarity of images (B, ...), as vectors, in float32 at least: (B,)."""
    return (unit(x) * unit(y)).sum(1)


def _check_shape(name: str, value: Tensor, student: Tensor):
    if value.shape != student.shape:
        raise ValueError(
            f"{name} must have the shape of student, {tuple(student.shape)}, "
            f"got {tuple(value.shape)}"
        )


class _ContrastiveLoss(nn.Module):
    def __init__(self, tau: float):
        super().__init__()
        check_between("tau", tau, 1e-3, 1e3)
        self.tau = tau

    def extra_repr(self) -> str:
        return f"tau={self.tau}"


class IntraContrastiveLoss(_ContrastiveLoss):
    """A student is to resemble the teacher more than another layer resembles it, in each image.

    With s, the cosine similarity of an image's vectors, it is
    softplus((s(student, other) - s(student, teacher)) / tau). Meant for low frequencies, in which
    different images are alike: no image is a negative example for another one.

    Args:
        tau: temperature; 1 is the paper's. At 1, the loss of a perfect student is still 0.31.

    Shape:
        - student, teacher, other: (B, ...), all alike; only the student gets a gradient
        - output: (B,)

    Raises:
        ValueError: if `tau` is no positive number.

    Source: FRAMER (CVPR 2026), IntraCL.

    Example:
        >>> x = torch.randn(2, 8, 4, 4)
        >>> IntraContrastiveLoss(tau=1.0)(x, x, -x)
        tensor([0.1269, 0.1269])
    """

    def __init__(self, tau: float = 0.1):
        super().__init__(tau)

    def forward(self, student: Tensor, teacher: Tensor, other: Tensor | None = None) -> Tensor:
        """See the class; without `other`, the similarity to it counts as 0."""
        _check_shape("teacher", teacher, student)
        with without_autocast(student):
            margin = cosine(student, teacher.detach()) - _to_other(student, other)
            return F.softplus(-margin / self.tau)


class InterContrastiveLoss(_ContrastiveLoss):
    """A student is to tell the teacher's vector of an image from those of other images.

    It is the cross-entropy of choosing, by the student's similarities / tau, the teacher's vector
    of the same image among those of all images and that of another layer. Meant for high
    frequencies, in which different images differ.

    Args:
        tau: temperature; 1 is the paper's. At 1, a perfect student of 8 images still has 1.37.
        gather: choose among the images of all processes. They all have to call the loss together,
            may have different numbers of images, and not different sizes of maps. The mean over
            the images of a process, averaged over processes, is that over all images if each has
            as many, and so is its gradient (`DistributedDataParallel` averages gradients).

    Shape:
        - student, teacher, other: (B, ...), all alike; only the student gets a gradient
        - output: (B,)

    Raises:
        ValueError: if `tau` is no positive number, or, on call, if the processes' maps differ in
            size.

    Source: FRAMER (CVPR 2026), InterCL.

    Example:
        >>> x = torch.eye(2)  # two images, which do not resemble each other
        >>> InterContrastiveLoss(tau=1.0)(x, x)
        tensor([0.5514, 0.5514])
    """

    def __init__(self, tau: float = 0.1, gather: bool = True):
        super().__init__(tau)
        self.gather = gather

    def forward(self, student: Tensor, teacher: Tensor, other: Tensor | None = None) -> Tensor:
        """See the class; without `other`, the similarity to it counts as 0."""
        _check_shape("teacher", teacher, student)
        images, first = gather_images(teacher.detach()) if self.gather else (teacher.detach(), 0)
        with without_autocast(student):
            query = unit(student)
            against = torch.cat([query @ unit(images).T, _to_other(student, other)[:, None]], 1)
        own = torch.arange(first, first + len(query), device=query.device)
        return F.cross_entropy(against / self.tau, own, reduction="none")


def _to_other(student: Tensor, other: Tensor | None) -> Tensor:
    """Similarity (B,) to the other layer; without one, what unrelated vectors have."""
    if other is None:
        return student.new_zeros(len(student), dtype=accumulate_dtype(student))
    _check_shape("other", other, student)
    return cosine(student, other.detach())
