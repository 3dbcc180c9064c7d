"""Boundary IoU for semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor


def boundary(labels: Tensor, width: int) -> Tensor:
    """Pixels within `width` of the contour of the mask they belong to.

    A mask's contour is also where the image ends. The masks of a label map do not overlap, so all
    erode at once: what is left of a mask are the pixels with constant labels in the square of
    2 * width + 1 around them.

    Args:
        labels: a label map of non-negative integers, (H, W).
        width: distance in pixels (Chebyshev).

    Returns:
        A boolean map, (H, W).
    """
    padded = F.pad(labels[None].float(), [width] * 4, value=-1.0)
    return (_max_pool(padded, width) != -_max_pool(-padded, width))[0]


def _max_pool(x: Tensor, width: int) -> Tensor:
    side = 2 * width + 1
    return F.max_pool2d(F.max_pool2d(x, (side, 1), stride=1), (1, side), stride=1)


@METRICS.register_module(force=True)
class BoundaryIoUMetric(BaseMetric):
    """Mean over classes of the Boundary IoU: of each mask, only what is near its contour counts.

    Near is within a distance d. Intersections and unions add up over the data set; classes that
    neither prediction nor truth contains are left out. Ignored pixels belong to no mask, in the
    prediction as in the truth. The result is ``boundary/mIoU`` in percent.

    Args:
        dilation_ratio: d as a share of the image diagonal; d is rounded and at least one pixel.
        ignore_index: label of the pixels to leave out.
        collect_device, prefix, collect_dir: see `mmengine.evaluator.BaseMetric`.

    Source: Cheng et al., "Boundary IoU", CVPR 2021, arXiv 2103.16562.

    Example:
        ``val_evaluator = [dict(type='IoUMetric'), dict(type='BoundaryIoUMetric')]``
    """

    default_prefix = "boundary"

    def __init__(self, dilation_ratio: float = 0.02, ignore_index: int = 255, **kwargs):
        super().__init__(**kwargs)
        self.dilation_ratio = dilation_ratio
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Adds the pixel counts of `data_samples`, each with `pred_sem_seg` and `gt_sem_seg`."""
        for sample in data_samples:
            truth = sample["gt_sem_seg"]["data"].squeeze(0)
            prediction = sample["pred_sem_seg"]["data"].squeeze(0).to(truth.device)
            self.results.append(self._count(prediction, truth))

    def compute_metrics(self, results: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Returns ``mIoU`` from the counts of all images."""
        intersection, union = (sum(counts) for counts in zip(*results, strict=True))
        iou = (intersection / union)[union > 0]
        return {"mIoU": round(100 * iou.mean().item(), 2)}

    def _count(self, prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels per class in the intersection and in the union of the two boundaries."""
        ignored = truth == self.ignore_index
        prediction = prediction.masked_fill(ignored, self.ignore_index)
        width = max(
            1, round(self.dilation_ratio * (truth.shape[0] ** 2 + truth.shape[1] ** 2) ** 0.5)
        )
        in_prediction = boundary(prediction, width) & ~ignored
        in_truth = boundary(truth, width) & ~ignored
        common = in_prediction & in_truth & (prediction == truth)
        intersection = self._histogram(truth[common])
        union = self._histogram(prediction[in_prediction]) + self._histogram(truth[in_truth])
        return intersection, union - intersection

    def _histogram(self, labels: Tensor) -> Tensor:
        return torch.bincount(labels.long(), minlength=len(self.dataset_meta["classes"])).cpu()
