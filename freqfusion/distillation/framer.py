"""FRAMER: the layers of a model learn from its last one, each frequency band in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ..ops._checks import check_between, check_choice, check_map
from ..ops._geometry import accumulate_dtype, without_autocast
from ..ops.bands import check_bands, column_weight, energies, low_weight, spectrum
from .alignment import project, resize
from .contrastive import InterContrastiveLoss, IntraContrastiveLoss, cosine

DOMAINS = ("spatial", "magnitude")
MATCHES = ("student", "teacher")
_EPS = 1e-6


class FramerLoss(nn.Module):
    """Draws student layers towards the teacher layer, frequency band by frequency band.

    Low frequencies by `IntraContrastiveLoss`, high ones by `InterContrastiveLoss`; the other layer
    in both is a random one of the students, drawn at every call. The losses of an image are
    weighted, without gradients: by 1 / (1 + difference of the energies of student and teacher)
    (frequency-adaptive weight), and by the similarity that they have already, if it is positive
    (frequency-alignment modulation). Then follows the mean over images and layers.

    Only the students get gradients, and each from its own terms. A student with other channels
    than the teacher is projected by a fixed matrix (`freqfusion.distillation.project`); for
    learnt ones see `Connectors`. Everything is computed in float32 at least, under autocast too.

    Args:
        cutoff: where the bands meet, as a fraction of the Nyquist frequency; see
            `freqfusion.frequency_split`.
        tau: temperature; 1 is the paper's. At 1 most of the loss is out of reach for any student.
        loss_weight: factor of the loss. With 0 the terms are computed and nothing is trained.
        faw: weight by the energies.
        relative: divide the difference of the energies by the student's, as the authors' code.
        fam: weight by the similarities.
        fam_floor: the least weight of them, 0 to 1. At 0 a student that does not resemble the
            teacher yet, like one behind a new connector, hardly learns.
        match: "student": the maps are compared in the student's size, so that the student is asked
            for no frequency that it cannot have; "teacher": in the teacher's.
        mask: see `freqfusion.frequency_split`; "magnitude_quantile" takes the teacher's.
        soft: see `freqfusion.frequency_split`.
        domain: what is compared: "spatial": the bands of the maps; "magnitude": the magnitudes
            of their Fourier coefficients, without phases (for comparison only).
        gather: see `InterContrastiveLoss`.
        seed: of `generator`, which draws the other layers; has to be the same in all processes.

    Shape:
        - students: (B, C_i, H_i, W_i) by name
        - teacher: (B, C, H, W)
        - output: numbers by name. "loss" is to be trained, the others are to be looked at: for
          every student "NAME/low" and "NAME/high", the similarity to the teacher, and
          "NAME/intra" and "NAME/inter", the losses without weights

    Raises:
        ValueError: if an argument is out of its range, or, on call, if there is no student or a
            map is none.
        TypeError: on call, if a map is none.

    Source: FRAMER (CVPR 2026), section on the method. Ours: the temperature, the comparison in the
        student's size, and that a single student has no other layer: the similarity to it counts
        as 0.

    Example:
        >>> loss = FramerLoss()
        >>> layers = {"layer1": torch.randn(2, 8, 32, 32), "layer2": torch.randn(2, 16, 16, 16)}
        >>> terms = loss(layers, teacher=torch.randn(2, 16, 32, 32))
        >>> list(terms)[:3]
        ['loss', 'layer1/low', 'layer1/high']
    """

    def __init__(
        self,
        cutoff: float = 0.2,
        tau: float = 0.1,
        loss_weight: float = 0.1,
        faw: bool = True,
        relative: bool = False,
        fam: bool = True,
        fam_floor: float = 0.0,
        match: str = "student",
        mask: str = "radial",
        soft: float = 0.0,
        domain: str = "spatial",
        gather: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        check_bands(cutoff, mask, soft)
        check_between("loss_weight", loss_weight, 0, float("inf"))
        check_between("fam_floor", fam_floor, 0, 1)
        check_choice("match", match, MATCHES)
        check_choice("domain", domain, DOMAINS)
        self.intra, self.inter = IntraContrastiveLoss(tau), InterContrastiveLoss(tau, gather)
        self.cutoff, self.mask, self.soft = cutoff, mask, soft
        self.loss_weight, self.match, self.domain = loss_weight, match, domain
        self.faw, self.relative, self.fam, self.fam_floor = faw, relative, fam, fam_floor
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, students: Mapping[str, Tensor], teacher: Tensor) -> dict[str, Tensor]:
        """See the class."""
        if not students:
            raise ValueError("students must have a layer at least, got none")
        check_map("teacher", teacher)
        for name, x in students.items():
            check_map(name, x)
        is_trained = torch.is_grad_enabled() and self.loss_weight > 0
        with torch.set_grad_enabled(is_trained), without_autocast(teacher):
            layers = {
                name: self._layer(x, teacher, other)
                for (name, x), other in zip(students.items(), self._others(students), strict=True)
            }
            losses = [layer.pop("loss") for layer in layers.values()]
            loss = self.loss_weight * torch.stack(losses).mean()
        terms = {f"{n}/{k}": v.detach() for n, layer in layers.items() for k, v in layer.items()}
        return {"loss": loss, **terms}

    def _others(self, students: Mapping[str, Tensor]) -> list[Tensor | None]:
        """Draws another one for each of the students; None if there is only one."""
        maps = list(students.values())
        if len(maps) == 1:
            return [None]
        steps = torch.randint(
            1, len(maps), (len(maps),), generator=self.generator, device="cpu"
        ).tolist()
        return [maps[(i + step) % len(maps)] for i, step in enumerate(steps)]

    def _layer(self, student: Tensor, teacher: Tensor, other: Tensor | None) -> dict[str, Tensor]:
        """Terms of one student."""
        size = (student if self.match == "student" else teacher).shape[2:]
        align = partial(self._spectrum, channels=teacher.shape[1], size=size)
        own, target = align(student), align(teacher.detach())
        low = low_weight(target, size[1], self.cutoff, self.mask, self.soft)
        split = partial(self._bands, low=low, width=size[1])
        bands, targets = split(own), split(target)
        others = (None, None) if other is None else split(align(other.detach()))
        intra = self.intra(bands[0], targets[0], others[0])
        inter = self.inter(bands[1], targets[1], others[1])
        with torch.no_grad():
            similarity = [cosine(*pair) for pair in zip(bands, targets, strict=True)]
            energy = [energies(x, low, size[1]) for x in (own, target)]
            weight = [self._weight(*each) for each in zip(similarity, *energy, strict=True)]
        return {
            "loss": (weight[0] * intra + weight[1] * inter).mean(),
            "low": similarity[0].mean(),
            "high": similarity[1].mean(),
            "intra": intra.mean(),
            "inter": inter.mean(),
        }

    def _spectrum(self, x: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
        return spectrum(resize(project(x.to(accumulate_dtype(x)), channels), size))

    def _bands(self, coefficients: Tensor, low: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Vectors with the inner products of the low and of the high band's maps (Parseval)."""
        root = column_weight(coefficients, width).sqrt()
        bands = coefficients * (low * root), coefficients * ((1 - low) * root)
        if self.domain == "magnitude":
            return bands[0].abs(), bands[1].abs()
        return torch.view_as_real(bands[0]), torch.view_as_real(bands[1])

    def _weight(self, similarity: Tensor, energy: Tensor, target: Tensor) -> Tensor:
        """Weights (B,) of the losses in a band."""
        weight = torch.ones_like(similarity)
        if self.faw:
            gap = (target - energy).abs()
            weight = weight / (1 + (gap / (energy + _EPS) if self.relative else gap))
        return weight * similarity.clamp_min(self.fam_floor) if self.fam else weight

    def extra_repr(self) -> str:
        """See `torch.nn.Module`."""
        return f"cutoff={self.cutoff}, loss_weight={self.loss_weight}, match={self.match!r}"
