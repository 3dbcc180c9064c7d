"""Analysis: similarity against NumPy, spectra against closed forms, the report and its command."""

import base64
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from freqfusion import FreqFusion, FreqFusionConcat, FreqFusionFPN
from freqfusion.analysis import (
    FeatureSimilarity,
    KernelResponse,
    ModelAnalysis,
    RadialSpectrum,
    Scene,
    boundary_band,
    feature_similarity,
    find_fusions,
    pictures,
    similarity,
    write_report,
)
from freqfusion.analysis._studies import FilterStudy
from freqfusion.layers import FreqFusionFilters, Nearest
from freqfusion.layers.offsets import sample
from freqfusion.necks.fpn import PEERS
from freqfusion.ops import reassemble
from freqfusion.recorder import FeatureRecorder

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "mm_configs" / "scenes"
CONFIG = CONFIGS / "fpn-freqfusion_r18_1xb4-800_scenes-128x256.py"
MEASURES = similarity.MEASURES


def by_numpy(images, region):
    """Measures of every pixel by its class, of pairs of maps (C, H, W) and labels."""
    found = {}
    for features, labels in images:
        inside = by_loops(labels, 5) if region == "boundary" else labels != 255
        classes = [label for label in np.unique(labels).tolist() if label != 255]
        centres = np.stack([features[:, labels == label].mean(1) for label in classes])
        for i, label in enumerate(classes):
            x = features[:, inside & (labels == label)].T
            cosine = x @ centres.T / np.linalg.norm(x, axis=1)[:, None]
            cosine /= np.linalg.norm(centres, axis=1)
            own, others = cosine[:, i], np.delete(cosine, i, 1)
            mean, most = others.mean(1), others.max(1)
            rows = np.stack([own, mean, most, own - mean, own - most, own > most], 1)
            found[label] = np.concatenate([found.get(label, rows[:0]), rows])
    return {label: rows for label, rows in found.items() if len(rows)}


def by_loops(labels, edge_k):
    """The boundary band, pixel by pixel: a change in the 3x3 neighbourhood, dilated."""

    def around(a, i, j, radius):
        return a[max(i - radius, 0) : i + radius + 1, max(j - radius, 0) : j + radius + 1]

    places = list(np.ndindex(labels.shape))
    change = np.array([(around(labels, i, j, 1) != labels[i, j]).any() for i, j in places])
    change = change.reshape(labels.shape)
    band = np.array([around(change, i, j, edge_k // 2).any() for i, j in places])
    return band.reshape(labels.shape) & (labels != 255)


def image(seed, classes, size=(14, 18), channels=6):
    """Features of a random direction for each class and noise; rectangles; an ignored corner."""
    random = np.random.default_rng(seed)
    labels = np.full(size, classes[0])
    for label in classes[1:]:
        top, left = random.integers(1, 6, 2)
        labels[top : top + 5, left : left + 7] = label
        assert (labels == label).any()
    labels[:3, -4:] = 255
    directions = random.normal(size=(256, channels))
    features = directions[labels].transpose(2, 0, 1) + random.normal(size=(channels, *size))
    return features, labels


def check_region(found, expected):
    rows = np.concatenate(list(expected.values()))
    assert found["pixels"] == len(rows) > 0
    assert [found["pooled"][name] for name in MEASURES] == pytest.approx(rows.mean(0))
    means = np.stack([own.mean(0) for own in expected.values()])
    assert [found["macro"][name] for name in MEASURES] == pytest.approx(means.mean(0))
    assert [own["label"] for own in found["classes"]] == sorted(expected)
    for own in found["classes"]:
        assert own["pixels"] == len(expected[own["label"]])
        assert [own[name] for name in MEASURES] == pytest.approx(expected[own["label"]].mean(0))


class TestSimilarity:
    def test_by_hand(self):
        """Class 0 points right but for one pixel, class 1 points up."""
        features = torch.tensor([[[3.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 2.0, 5.0]]])
        found = feature_similarity(features, torch.tensor([[0, 0, 1, 1]]), edge_k=1)
        ones = dict.fromkeys(MEASURES, 1.0) | {"inter_mean": 0.0, "inter_max": 0.0}
        assert found["all"]["pooled"] == found["boundary"]["macro"] == ones
        assert (found["all"]["pixels"], found["boundary"]["pixels"]) == (4, 2)
        features[:, 0, 1] = torch.tensor([0.0, 3.0])  # the centre of 0 is at 45 degrees now
        found = feature_similarity(features, torch.tensor([[0, 0, 1, 1]]))
        half = math.sqrt(0.5)
        assert found["all"]["pooled"]["intra"] == pytest.approx((half + half + 1 + 1) / 4)
        assert found["all"]["pooled"]["inter_max"] == pytest.approx((0 + 1 + half + half) / 4)
        assert found["all"]["pooled"]["nearest_share"] == 0.75
        assert found["centres"]["pooled"] == pytest.approx({"inter_mean": half, "inter_max": half})

    @pytest.mark.parametrize("region", ["all", "boundary"])
    def test_agrees_with_numpy(self, region):
        features, labels = image(0, [0, 3, 7])
        found = feature_similarity(torch.from_numpy(features), torch.from_numpy(labels))
        check_region(found[region], by_numpy([(features, labels)], region))

    @pytest.mark.parametrize("region", ["all", "boundary"])
    def test_images_add_up(self, region):
        """Classes that are in some of the images only; one call by image, and one for a batch."""
        images = [image(1, [0, 3, 7]), image(2, [3, 0]), image(3, [7, 9, 0, 3])]
        expected = by_numpy(images, region)
        one_by_one, batch = FeatureSimilarity(), FeatureSimilarity()
        for features, labels in images:
            one_by_one.update(torch.from_numpy(features), torch.from_numpy(labels))
        batch.update(*(torch.from_numpy(np.stack(part)) for part in zip(*images, strict=True)))
        assert one_by_one.compute() == batch.compute()
        assert batch.compute()["images"] == 3
        check_region(batch.compute()[region], expected)

    def test_centres(self):
        features, labels = image(4, [0, 3, 7])
        centres = np.stack([features[:, labels == label].mean(1) for label in (0, 3, 7)])
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        others = [np.delete(row, i) for i, row in enumerate(centres @ centres.T)]
        found = feature_similarity(torch.from_numpy(features), torch.from_numpy(labels))["centres"]
        for name, reduce in (("inter_mean", np.mean), ("inter_max", np.max)):
            expected = [reduce(row) for row in others]
            assert [own[name] for own in found["classes"]] == pytest.approx(expected)
            assert found["macro"][name] == pytest.approx(np.mean(expected))

    def test_features_are_resized_to_the_labels(self, monkeypatch):
        """In chunks of channels too, and if they go on beyond the labels."""
        features, (_, labels) = torch.randn(7, 4, 5).double(), image(5, [0, 3, 7])
        resized = F.interpolate(features[None], labels.shape, mode="bilinear")[0]
        expected = by_numpy([(resized.numpy(), labels)], "all")
        check_region(feature_similarity(features, torch.from_numpy(labels))["all"], expected)
        monkeypatch.setattr(similarity, "CHUNK", 3 * labels.size)
        check_region(feature_similarity(features, torch.from_numpy(labels))["all"], expected)
        part = torch.from_numpy(labels[:9, :11].copy())
        found = feature_similarity(features, part, extent=labels.shape)
        expected = by_numpy([(resized[:, :9, :11].numpy(), part.numpy())], "all")
        check_region(found["all"], expected)

    def test_one_class_has_no_others(self):
        found = feature_similarity(torch.randn(3, 4, 4), torch.full((8, 8), 2))
        assert found["all"]["pixels"] == 64 and 0 < found["all"]["macro"]["intra"] <= 1
        assert [found["all"]["pooled"][name] for name in MEASURES[1:]] == [None] * 5
        assert found["boundary"]["pixels"] == 0 and found["boundary"]["classes"] == []
        assert set(found["boundary"]["macro"].values()) == {None}
        assert found["centres"]["classes"] == []

    def test_image_of_one_class_counts_for_intra_alone(self):
        meter = FeatureSimilarity()
        meter.update(torch.eye(2)[:, None], torch.tensor([[0, 1]]))
        before = meter.compute()["all"]["pooled"]
        meter.update(-torch.ones(2, 1, 1), torch.tensor([[0, 0]]))
        after = meter.compute()["all"]
        assert after["pixels"] == 4 and after["pooled"] == before == before | {"intra": 1.0}

    def test_nothing_labelled(self):
        found = feature_similarity(torch.randn(3, 1, 1), torch.full((2, 2), 255))
        assert found["images"] == 1 and found["all"]["pixels"] == 0
        assert set(found["all"]["pooled"].values()) == {None}

    def test_half_precision_is_computed_in_float32(self):
        features = 300 * torch.randn(8, 1, 1, dtype=torch.float16).expand(8, 6, 6)  # overflows
        labels = torch.arange(6).repeat(6, 1) // 3
        features = features * torch.where(labels > 0, 1, -1)
        found = feature_similarity(features, labels)
        assert found["all"]["pooled"]["margin_mean"] == pytest.approx(2, abs=1e-5)

    def test_autocast_changes_nothing(self):
        features, labels = torch.randn(8, 6, 6), torch.arange(6).repeat(6, 1) // 2
        with torch.autocast("cpu", torch.bfloat16):
            found = feature_similarity(features, labels)
        assert found == feature_similarity(features, labels)

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"features": torch.zeros(2, 4, 4)}, "features must be a map"),
            ({"labels": torch.zeros(1, 4, 4)}, "labels must be integers .* got torch.float32"),
            ({"labels": torch.zeros(2, 4, 4).int()}, "labels must be integers .* batch size"),
            ({"edge_k": 4}, "edge_k must be an odd positive integer, got 4"),
            ({"extent": (4, 3)}, r"extent must be at least the size of labels, \(4, 4\), got"),
        ],
    )
    def test_errors(self, change, message):
        arguments = {"features": torch.zeros(1, 2, 4, 4), "labels": torch.zeros(1, 4, 4).int()}
        with pytest.raises((ValueError, TypeError), match=message):
            feature_similarity(**{**arguments, **change})


class TestBoundaryBand:
    def test_by_hand(self):
        labels = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
        for edge_k, columns in ((1, [3, 4]), (3, [2, 3, 4, 5]), (5, [1, 2, 3, 4, 5, 6])):
            assert boundary_band(labels, edge_k)[0].nonzero()[:, 0].tolist() == columns
        ramp = torch.tensor([[0, 1, 2, 3]])  # the Laplacian of the numbers would be zero in it
        assert boundary_band(ramp, 1).all()

    @pytest.mark.parametrize("edge_k", [1, 3, 7])
    def test_agrees_with_loops(self, edge_k):
        _, labels = image(6, [0, 3, 7])
        found = boundary_band(torch.from_numpy(labels), edge_k)
        expected = by_loops(labels, edge_k)
        assert (found.numpy() == expected).all() and 0 < expected.sum() < labels.size


class TestRadialSpectrum:
    @pytest.mark.parametrize("direction", [(0.0, 0.2), (0.2, 0.0), (0.12, -0.16)])
    def test_sinusoid_is_a_peak_in_its_bin(self, direction):
        rows, cols = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
        wave = torch.sin(2 * math.pi * (direction[0] * rows + direction[1] * cols))
        spectrum = RadialSpectrum()
        spectrum.update(3 + wave[None, None])
        found = spectrum.compute()
        power = np.array(found["power"])
        peak = power.argmax()
        assert abs(found["frequency"][peak] - 0.2) <= 0.5 / 16 / 2
        far = np.abs(np.arange(len(power)) - peak) > 1
        assert power[far].max() < 0.01 * power[peak]
        assert found["variance"] == pytest.approx(0.5, rel=0.02)
        assert found["fine_share"] < 1e-3

    @pytest.mark.parametrize("size", [(64, 64), (37, 90)])
    def test_white_noise_is_flat(self, size):
        """And has its variance at every frequency, whatever the size."""
        spectrum = RadialSpectrum()
        for _ in range(3):
            spectrum.update(2 * torch.randn(1, 64, *size))
        found = spectrum.compute()
        assert found["maps"] == 3
        assert found["power"] == pytest.approx([4.0] * len(found["power"]), rel=0.1)
        # frequencies in the square of +-0.5, less those in the circle of 0.25
        assert found["fine_share"] == pytest.approx(1 - math.pi / 16, abs=0.02)

    @pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 2)])
    def test_tiny_and_constant_maps(self, size):
        spectrum = RadialSpectrum()
        spectrum.update(torch.ones(1, 2, *size, dtype=torch.float16))
        found = spectrum.compute()
        assert found["variance"] == found["fine_share"] == 0
        # a single pixel has no frequency but 0, which is left out
        assert set(found["power"]) == ({None} if size == (1, 1) else {0.0, None})

    def test_nyquist_is_in_the_last_bin_below_it(self):
        spectrum = RadialSpectrum(bins=4)
        spectrum.update(torch.tensor([[[[1.0], [-1.0]]]]))
        found = spectrum.compute()
        assert [power is not None for power in found["power"]] == [False] * 3 + [True] + [False] * 2
        assert found["power"][3] == pytest.approx(2 * found["variance"])  # all at one of 2
        assert found["frequency"][3] < found["nyquist"] == 0.5 < found["frequency"][4]


class TestKernelResponse:
    @pytest.mark.parametrize("size", [3, 5])
    def test_box_blur_has_its_closed_form(self, size):
        response = KernelResponse(size)
        response.update(torch.full((2, 2 * size**2, 3, 4), size**-2.0))
        found = response.compute()
        f = np.array(found["frequency"])
        sides = range(1, size // 2 + 1)
        dirichlet = (1 + sum(2 * np.cos(2 * np.pi * k * f) for k in sides)) / size
        assert found["kernels"] == 2 * 2 * 3 * 4
        assert np.array(found["gain"]["mean"]) == pytest.approx(
            np.abs(np.outer(dirichlet, dirichlet)), abs=1e-6
        )
        assert np.array(found["gain"]["std"]).max() < 1e-6
        assert np.array(found["taps"]["mean"]) == pytest.approx(np.full((size,) * 2, size**-2.0))
        # of the ring at Nyquist, its four corners on the axes are the largest
        assert found["radial"]["mean"][0] == pytest.approx(1, abs=1e-6)
        assert found["radial"]["mean"][16] < abs(dirichlet[0]) + 1e-6
        assert found["radial"]["frequency"][16] == 0.5

    def test_rows_and_columns(self):
        """A blur along the rows leaves patterns alone that change from row to row."""
        blur = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0, 0])[None, :, None, None] / 3
        response = KernelResponse(3)
        response.update(blur)
        gain = np.array(response.compute()["gain"]["mean"])
        assert gain[:, 16] == pytest.approx(np.ones(33))
        assert gain[16, -1] == pytest.approx(1 / 3)

    def test_high_pass_is_the_rest(self):
        response = KernelResponse(3, high_pass=True)
        response.update(torch.full((1, 9, 1, 1), 1 / 9))
        found = response.compute()
        assert found["gain"]["mean"][16][16] == pytest.approx(0, abs=1e-6)
        assert found["gain"]["mean"][16][-1] == pytest.approx(4 / 3)  # 1 - (1 - 2) / 3
        assert found["taps"]["mean"][1][1] == pytest.approx(8 / 9)

    def test_spread_over_kernels(self):
        kernels = torch.zeros(1, 9, 1, 2)
        kernels[0, 4] = torch.tensor([1.0, 3.0])  # gains of 1 and 3 everywhere
        response = KernelResponse(3)
        response.update(kernels)
        found = response.compute()
        assert np.array(found["gain"]["mean"]) == pytest.approx(np.full((33, 33), 2.0))
        assert found["radial"]["std"] == pytest.approx([1.0] * 24, abs=1e-5)

    def test_errors(self):
        with pytest.raises(ValueError, match="kernels must have k \\* 9 channels, got 8"):
            KernelResponse(3).update(torch.zeros(1, 8, 2, 2))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"up_group": 2, "hamming_window": False},
        {"semi_conv": False},
        {"use_high_pass": False, "feature_resample": False},
    ],
)
def test_filters_of_the_layer_are_those_it_uses(options):
    layer = FreqFusion(8, 16, 16, **{"feature_resample": True, **options}).double()
    fine, coarse = torch.randn(2, 8, 7, 10).double(), torch.randn(2, 16, 4, 5).double()
    mask, hr_feat, lr_feat = layer(fine, coarse)
    filters = layer.predict(fine, coarse)
    assert torch.equal(filters.low_pass, mask)
    groups = layer.up_group
    upsampled = coarse if layer.semi_conv else F.interpolate(coarse, (7, 10))
    if not layer.semi_conv:
        upsampled = layer._interpolate(coarse, (7, 10))
    upsampled = reassemble(upsampled, filters.low_pass, 5, groups=groups)
    if layer.feature_resample:
        assert filters.offset.abs().max() > 0.01
        upsampled = sample(upsampled, filters.offset, (4, 5))
    assert torch.allclose(upsampled, lr_feat)
    if layer.use_high_pass:
        smooth = reassemble(fine, filters.high_pass, 3, groups=groups)
        assert torch.allclose(2 * fine - smooth, hr_feat)
    else:
        assert filters.high_pass is None and filters.offset is None


class TestPictures:
    def test_alike_vectors_have_alike_colours_in_all_maps(self):
        """In any arrangement and of any length; other channels have components of their own."""
        x = torch.randn(8, 6, 10)
        maps = {"a": x, "b": 5 * x.flip(2), "c": torch.randn(3, 2, 2)}
        found = pictures.pca_colours(maps)
        assert list(found) == ["a", "b", "c"]
        assert (found["a"] == found["b"][:, ::-1]).all()
        assert found["a"].dtype == np.uint8 and found["a"].reshape(-1, 3).std(0).min() > 20
        assert found["c"].shape == (2, 2, 3)

    @pytest.mark.parametrize("seed", range(4))
    def test_two_kinds_of_vectors(self, seed):
        """Red where the channel that differs most is large."""
        direction = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        direction *= direction[direction.abs().argmax()].sign()
        x = direction[:, None, None] * torch.tensor([3.0, -1.0]).repeat(2, 2)
        (found,) = pictures.pca_colours({"x": x}).values()
        assert found[..., 0].tolist() == [[255, 0, 255, 0]] * 2

    def test_similarities(self):
        checkers = torch.ones(1, 5, 5)
        checkers[0, ::2, 1::2] = checkers[0, 1::2, ::2] = -1
        near = pictures.similarity_to_neighbours(checkers)
        assert near[2, 2] == 0 and near[0, 0] == pytest.approx(-1 / 3)  # 1 - 1 - 1, of three
        assert pictures.similarity_to_neighbours(torch.ones(3, 4, 4)) == pytest.approx(1)
        assert pictures.similarity_to_neighbours(torch.ones(3, 1, 1)).tolist() == [[1.0]]
        to_corner = pictures.similarity_to(7 * checkers, (0.99, 1.0))
        assert (to_corner == checkers[0].numpy()).all()

    def test_telling_pixel_is_inside_of_the_rarest_class_with_an_inside(self):
        labels = np.zeros((20, 40), int)
        labels[2:11, 4:15] = 7
        labels[:, 30] = 3  # a line has no inside
        labels[15:, :5] = 255
        row, col = pictures.telling_pixel(labels)
        assert (row, col) == ((6 + 0.5) / 20, (9 + 0.5) / 40)
        assert pictures.telling_pixel(np.full((4, 4), 255)) == (0.5, 0.5)

    def test_arrows_have_the_length_and_direction_of_the_offsets(self):
        offset = torch.tensor([1.0, 3.0, -0.5, -0.5])[:, None, None].expand(4, 16, 32)
        figure = pictures.draw_offsets(np.zeros((64, 128, 3), np.uint8), offset, (8, 16), arrows=12)
        (quiver,) = figure.axes[0].collections
        assert quiver.N == 12 * 6
        # a coarse pixel is eight of the picture; x: mean of 1 and 3
        assert set(np.ravel(quiver.U)) == {16.0} and set(np.ravel(quiver.V)) == {-4.0}
        assert quiver.angles == quiver.scale_units == "xy" and quiver.scale == 1


class Pair(torch.nn.Module):
    """A backbone of one map, and a neck."""

    def __init__(self, neck):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 64, 3, padding=1)
        self.unused = torch.nn.Identity()
        self.neck = neck

    def forward(self, x):
        x = self.stem(x)
        return self.neck([x, F.avg_pool2d(x, 2)])


def blocks():
    """Labels of two images: blocks of three classes, and an ignored one."""
    labels = torch.tensor([0, 1, 2, 255, 2, 0, 1, 1]).reshape(2, 2, 2)
    return labels.repeat_interleave(8, 1).repeat_interleave(12, 2)


class TestModelAnalysis:
    def analyse(self, neck, layers=(), labels=True):
        model = Pair(neck).eval()
        x, labels = torch.randn(2, 3, 8, 12), blocks() if labels else None
        with ModelAnalysis(model, layers) as analysis:
            out = model(x)
            snapshot = analysis.update(labels)
        return analysis.compute(), snapshot, out, labels

    def test_maps_before_and_after(self):
        neck = FreqFusionFPN([64, 64], 64, num_outs=2)
        found, snapshot, outs, labels = self.analyse(neck, ["neck[0]", "stem"])
        maps = snapshot.fusions["neck.alignment.0"]
        fine, coarse = maps["fine"], maps["coarse"]
        _, hr_feat, lr_feat = neck.alignment[0](fine, coarse)
        assert torch.allclose(maps["fused"], hr_feat + lr_feat, atol=1e-6)
        assert torch.allclose(neck.fpn_convs[0](maps["fused"]), outs[0], atol=1e-5)
        fusion = found["fusions"]["neck.alignment.0"]
        assert fusion["type"] == "FreqFusion"
        for role, x in maps.items():
            assert fusion["maps"][role]["similarity"] == feature_similarity(x, labels)
            assert fusion["maps"][role]["size"] == list(x.shape[2:])
        assert found["layers"]["neck[0]"]["similarity"] == feature_similarity(outs[0], labels)
        lengths = snapshot.filters["neck.alignment.0"].offset.unflatten(1, (2, 4)).norm(dim=1)
        offsets = fusion["filters"]["offsets"]
        assert offsets["all"]["mean"] == pytest.approx(lengths.mean().item())
        resized = F.interpolate(lengths.mean(1)[:, None], (16, 24), mode="bilinear")[:, 0]
        band = torch.stack([boundary_band(own) for own in labels])
        assert offsets["boundary"]["mean"] == pytest.approx(resized[band].mean().item())
        elsewhere = resized[~band & (labels != 255)]
        assert offsets["elsewhere"]["mean"] == pytest.approx(elsewhere.mean().item())
        low = snapshot.filters["neck.alignment.0"].low_pass.mean((0, 2, 3)).reshape(5, 5)
        assert fusion["filters"]["low_pass"]["taps"]["mean"] == [
            pytest.approx(row.tolist(), abs=1e-6) for row in low
        ]

    def test_concatenation_and_peers(self):
        found, snapshot, out, _ = self.analyse(FreqFusionConcat([64, 64]))
        (maps,) = snapshot.fusions.values()
        assert maps["fused"].shape == out.shape
        assert torch.allclose(maps["fused"].sum(1), out.sum(1), atol=1e-4)
        neck = FreqFusionFPN([64, 64], 64, num_outs=2, fusion={"type": "Nearest"})
        found, snapshot, _, _ = self.analyse(neck, labels=False)
        fusion = found["fusions"]["neck.alignment.0"]
        assert (fusion["type"], fusion["filters"]) == ("Nearest", None)
        assert list(fusion["maps"]) == ["fine", "coarse", "fused"]
        assert fusion["maps"]["fused"]["similarity"] is None
        assert fusion["maps"]["fused"]["spectrum"]["variance"] > 0

    @pytest.mark.parametrize("kind", PEERS)
    def test_every_peer_is_found(self, kind):
        neck = FreqFusionFPN([8, 16, 32], 64, num_outs=3, fusion={"type": kind})
        found = find_fusions(neck)
        assert [fusion.path for fusion in found] == ["alignment.0", "alignment.1"]
        assert {type(fusion.module).__name__ for fusion in found} == {kind}

    def test_heads_that_concatenate(self):
        pytest.importorskip("mmseg", reason="needs mmseg")
        from freqfusion.integrations.openmmlab import FreqFusionSegformerHead, FreqFusionUPerHead

        options = dict(in_channels=[16, 32], in_index=[0, 1], channels=32, num_classes=5)
        for head, concatenates in ((FreqFusionSegformerHead, True), (FreqFusionUPerHead, False)):
            (fusion,) = find_fusions(head(**options))
            assert fusion.concatenates == concatenates

    def test_finest_fusion_is_first(self):
        model = FreqFusionConcat([8, 8, 8], compress_ratio=1)
        with ModelAnalysis(model) as analysis:
            model([torch.randn(1, 8, n, n) for n in (8, 4, 2)])
            analysis.update()
        assert list(analysis.compute()["fusions"]) == ["freqfusions.1", "freqfusions.0"]

    def test_errors_and_fusions_that_do_not_run(self):
        model = Pair(torch.nn.Identity())
        model.spare = Nearest(4)
        assert [fusion.path for fusion in find_fusions(model)] == ["spare"]
        with pytest.raises(ValueError, match="no module 'nek'.*mean 'neck'.*stem, unused, neck"):
            ModelAnalysis(model, ["nek"])
        with ModelAnalysis(model, ["unused"]) as analysis:
            model(torch.randn(1, 3, 4, 4))
            with pytest.raises(ValueError, match="the model did not call 'unused'"):
                analysis.update()
        with ModelAnalysis(model, ["stem"]) as analysis:
            model(torch.randn(1, 3, 4, 4))
            analysis.update()
            with pytest.raises(ValueError, match="did not call 'stem'"):  # not the same map again
                analysis.update()
        assert list(analysis.compute()["layers"]) == ["stem"]
        assert analysis.compute()["fusions"] == {}


def check_self_contained(html):
    assert not re.search(r"https?:|url\(|@import|<script|<link", html)
    sources = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'>]*)""", html)
    assert {source[:5] for source in sources} == {
        "data:",
        "#s0",
        *(f"#s{n}" for n in range(1, 9)),
    } & {source[:5] for source in sources}
    drawn = [base64.b64decode(s.split(",")[1]) for s in sources if s.startswith("data:image/svg")]
    assert drawn and all(b"<svg" in file for file in drawn)
    for file in drawn:
        assert all(link.startswith((b"#", b"data:")) for link in re.findall(b'href="([^"]*)', file))
    return sources

    def test_options_reach_the_offsets(self):
        neck = FreqFusionFPN([8, 8], 64, num_outs=2).eval()
        maps = [torch.randn(1, 8, 16, 16), torch.randn(1, 8, 8, 8)]
        labels = torch.zeros(1, 16, 16, dtype=torch.long)
        labels[:, :, 8:], labels[:, 12:] = 1, 9
        found = set()
        for void, edge_k in ((9, 1), (9, 9), (255, 1)):
            with ModelAnalysis(neck, edge_k=edge_k, ignore_index=void) as run, torch.no_grad():
                neck(maps)
                run.update(labels)
            offsets = run.compute()["fusions"]["alignment.0"]["filters"]["offsets"]
            found.add((offsets["boundary"]["mean"], offsets["elsewhere"]["mean"]))
        assert len(found) == 3

    def test_offsets_of_padding_do_not_count(self):
        study = FilterStudy(FreqFusion(8, 8, feature_resample=True), 5, 255)
        offset = torch.zeros(1, 8, 16, 16)
        offset[..., 9:] = 100  # beyond the labels
        filters = FreqFusionFilters(torch.full((1, 25, 16, 16), 1 / 25), None, offset)
        study.add(filters, torch.zeros(1, 32, 16, dtype=torch.long), (32, 32))
        assert study.compute()["offsets"]["elsewhere"]["mean"] == 0

    def test_a_name_that_begins_like_another(self):
        model = {"head": FreqFusionConcat([64, 64]), "head2": FreqFusion(64, 64)}
        found = find_fusions(torch.nn.ModuleDict(model))
        assert [fusion.concatenates for fusion in found] == [True, False]


class TestReport:
    def report(self, folder, labels=True, neck=None):
        neck = neck or FreqFusionFPN([64, 64], 64, num_outs=2)
        found, snapshot, _, labels = TestModelAnalysis().analyse(neck, ["neck[0]"], labels)
        results = {"about": {"config": "a<b>.py", "images": 2, "classes": ["x", "y"]}, **found}
        labels = None if labels is None else labels[:1]
        scene = Scene(np.zeros((16, 24, 3), np.uint8), labels, None, (1.0, 0.9), snapshot)
        path = write_report(folder, results, scene)
        return results, path.read_text(), json.loads((folder / "report.json").read_text())

    def test_is_one_file_and_has_the_figures(self, tmp_path):
        results, html, read = self.report(tmp_path / "new" / "report")
        assert read == results  # every figure
        check_self_contained(html)
        margin = results["layers"]["neck[0]"]["similarity"]["boundary"]["macro"]["margin_mean"]
        assert f"<b>{margin:.3f}</b>".replace("-", "−") in html
        titles = re.findall("<h2>(.*?)</h2>", html)
        assert titles == ["Before and after", "Maps", "Pictures", *titles[3:]]
        assert titles[3:] == ["Spectra", "Filters", "Offsets", "Classes", "Definitions"]
        assert "a&lt;b&gt;" in html and "a<b>" not in html
        assert "class 2" in html  # has no name

    def test_without_labels_says_so(self, tmp_path):
        results, html, read = self.report(tmp_path, labels=False)
        assert read == results
        assert "The data have no semantic labels" in html
        titles = re.findall("<h2>(.*?)</h2>", html)
        assert titles == ["Pictures", "Spectra", "Filters", "Offsets", "Definitions"]

    def test_peers_have_no_filters(self, tmp_path):
        neck = FreqFusionFPN([64, 64], 64, num_outs=2, fusion={"type": "Nearest"})
        _, html, _ = self.report(tmp_path, neck=neck)
        titles = re.findall("<h2>(.*?)</h2>", html)
        assert titles == [
            "Before and after",
            "Maps",
            "Pictures",
            "Spectra",
            "Classes",
            "Definitions",
        ]

    @pytest.mark.parametrize("name", ["report.html", "report.json"])
    def test_overwrites_nothing(self, name, tmp_path):
        (tmp_path / name).write_text("mine")
        with pytest.raises(FileExistsError, match=f"{name} exists already"):
            self.report(tmp_path)
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]

    def test_is_the_same_every_time(self, tmp_path):
        torch.manual_seed(1)
        first = self.report(tmp_path / "1")[1]
        torch.manual_seed(1)
        assert self.report(tmp_path / "2")[1] == first


@pytest.fixture(scope="module")
def command():
    """tools/analyze.py"""
    pytest.importorskip("mmseg", reason="the command needs mmseg")
    sys.path.insert(0, str(ROOT / "tools"))
    import analyze

    return analyze


def make_scenes(folder, kind):
    tool = [sys.executable, ROOT / "tools" / "make_scenes.py", folder, "--format", kind]
    done = subprocess.run(
        [*map(str, tool), "--train", "1", "--val", "4", "--size", "64x128"], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
    """Scenes, a checkpoint of random weights, and the options that go with it."""
    from _config import load_config
    from _models import build

    folder = tmp_path_factory.mktemp("trained")
    options = [f"data_root={make_scenes(folder / 'scenes', 'cityscapes')}"]
    options += ["model.backbone.base_channels=16", "model.neck.in_channels=[16,32,64,128]"]
    checkpoint = folder / "model.pth"
    torch.save({"state_dict": build(load_config(str(CONFIG), options)).state_dict()}, checkpoint)
    return str(checkpoint), options


class TestCommand:
    def arguments(self, trained, out, *more):
        checkpoint, options = trained
        return [str(CONFIG), checkpoint, "--out", str(out), *more, "--cfg-options", *options]

    def call(self, command, monkeypatch, capsys, arguments):
        """Runs the command line here; returns its exit code and the last line of its errors."""
        monkeypatch.setattr(sys, "argv", ["analyze.py", *arguments])
        code = command.main()
        return code, (capsys.readouterr().err.splitlines() or [""])[-1]

    def test_end_to_end(self, trained, tmp_path):
        arguments = self.arguments(trained, tmp_path / "out", "--images", "2", "--edge-k", "3")
        tool = [sys.executable, str(ROOT / "tools" / "analyze.py"), *arguments]
        done = subprocess.run(tool, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{tmp_path / 'out' / 'report.html'} and report.json: 2 images" in done.stdout
        html = (tmp_path / "out" / "report.html").read_text()
        check_self_contained(html)
        assert "<td>traffic sign</td>" in html or "<td>road</td>" in html
        found = json.loads((tmp_path / "out" / "report.json").read_text())
        assert list(found["fusions"]) == [f"neck.alignment.{level}" for level in range(3)]
        assert list(found["layers"]) == [f"neck[{level}]" for level in range(4)]
        assert found["about"]["images"] == 2 and found["about"]["edge_k"] == 3
        for fusion in found["fusions"].values():
            assert fusion["filters"]["offsets"]["boundary"]["mean"] > 0
            for each in fusion["maps"].values():
                assert each["similarity"]["images"] == each["spectrum"]["maps"] == 2
                assert (
                    each["similarity"]["all"]["pixels"] > each["similarity"]["boundary"]["pixels"]
                )

    def test_similarity_of_is_that_of_the_map(self, command, trained, capfd):
        """Against NumPy, on a map recorded by hand."""
        checkpoint, options = trained
        found = command.similarity_of(str(CONFIG), checkpoint, images=2, options=options)
        assert list(found) == ["neck[0]"] and capfd.readouterr().out == ""
        from _config import load_config
        from _models import build
        from mmengine.dataset import pseudo_collate
        from mmengine.registry import DATASETS

        config = load_config(str(CONFIG), options)
        model = build(config).eval()
        model.load_state_dict(torch.load(checkpoint)["state_dict"])
        dataset = DATASETS.build(config.val_dataloader.dataset)
        images = []
        with torch.no_grad(), FeatureRecorder(model, ["neck[0]"]) as recorder:
            for index in (0, 2):  # of four, evenly spaced
                model.test_step(pseudo_collate([dataset[index]]))
                x = F.interpolate(recorder.features["neck[0]"].double(), (64, 128), mode="bilinear")
                labels = dataset[index]["data_samples"].gt_sem_seg.data[0].numpy()
                images.append((x[0].numpy(), labels))
        expected = by_numpy(images, "all")
        rows = np.concatenate(list(expected.values()))
        assert found["neck[0]"]["all"]["pixels"] == len(rows)
        pooled = [found["neck[0]"]["all"]["pooled"][name] for name in MEASURES]
        assert pooled == pytest.approx(rows.mean(0), abs=1e-4)

    @pytest.mark.parametrize(
        "layer, message",
        [
            (
                "nek[0]",
                r".*no module 'nek\[0\]' \(did you mean 'neck'\?\); it has: data_.*, neck, .*",
            ),
            ("neck", ".*'neck' must be a tensor, got a tuple of 4; choose one, as in 'neck.0.'"),
            ("neck[4]", r".*'neck\[4\]' does not exist, a tuple of 4.*"),
        ],
    )
    def test_missing_layer(self, layer, message, command, trained, tmp_path, monkeypatch, capsys):
        arguments = self.arguments(trained, tmp_path / "out", "--layers", "backbone[0]", layer)
        code, error = self.call(command, monkeypatch, capsys, arguments)
        assert code == 2 and re.fullmatch(f"analyze.py: {message}", error)
        assert not (tmp_path / "out").exists()

    def test_layers_alone_and_no_overwriting(self, command, trained, tmp_path, monkeypatch, capsys):
        arguments = self.arguments(
            trained, tmp_path, "--layers", "backbone.layer1", "--images", "1"
        )
        assert self.call(command, monkeypatch, capsys, arguments) == (0, "")
        found = json.loads((tmp_path / "report.json").read_text())
        assert found["fusions"] == {} and list(found["layers"]) == ["backbone.layer1"]
        before = (tmp_path / "report.html").read_bytes()
        code, error = self.call(command, monkeypatch, capsys, arguments)
        path = tmp_path / "report.html"
        assert (code, error) == (2, f"analyze.py: {path} exists already; choose another --out")
        assert path.read_bytes() == before

    def test_model_without_fusions(self, command, trained, tmp_path, monkeypatch, capsys):
        from _config import load_config
        from _models import build

        config, checkpoint = str(CONFIGS / "fpn_r18_1xb4-800_scenes-128x256.py"), tmp_path / "w.pth"
        weights = build(load_config(config, trained[1])).state_dict()
        torch.save({"state_dict": weights}, checkpoint)
        arguments = self.arguments((str(checkpoint), trained[1]), tmp_path, "--images", "1")
        code, error = self.call(command, monkeypatch, capsys, [config, *arguments[1:]])
        assert (code, error) == (0, "")
        found = json.loads((tmp_path / "report.json").read_text())
        assert found["fusions"] == {}
        assert list(found["layers"]) == [f"neck[{level}]" for level in range(4)]
        titles = re.findall("<h2>(.*?)</h2>", (tmp_path / "report.html").read_text())
        assert titles == ["Maps", "Pictures", "Spectra", "Classes", "Definitions"]

    def test_what_is_missing(self, command, trained, tmp_path, monkeypatch, capsys):
        arguments = self.arguments(trained, tmp_path / "out")
        arguments[1] = "missing.pth"
        code, error = self.call(command, monkeypatch, capsys, arguments)
        assert (code, error) == (2, "analyze.py: there is no checkpoint missing.pth")
        arguments = self.arguments(trained, tmp_path / "out", "--images", "0")
        code, error = self.call(command, monkeypatch, capsys, arguments)
        assert (code, error) == (2, "analyze.py: --images must be at least 1, got 0")

    def test_detector_without_labels(self, command, tmp_path, monkeypatch, capsys):
        pytest.importorskip("mmdet", reason="needs mmdet")
        pytest.importorskip("mmcv._ext", reason="needs mmcv's operators")
        from _config import load_config
        from _models import build

        config = CONFIGS / "faster-rcnn_r18_fpn-freqfusion_1xb2-500_scenes-128x256.py"
        options = [f"data_root={make_scenes(tmp_path / 'scenes', 'coco')}/"]
        checkpoint = str(tmp_path / "model.pth")
        model = build(load_config(str(config), options))
        torch.save({"state_dict": model.state_dict()}, checkpoint)
        arguments = [str(config), checkpoint, "--out", str(tmp_path / "out"), "--images", "1"]
        arguments += ["--cfg-options", *options]
        assert self.call(command, monkeypatch, capsys, arguments)[0] == 0
        html = (tmp_path / "out" / "report.html").read_text()
        assert "The data have no semantic labels" in html
        found = json.loads((tmp_path / "out" / "report.json").read_text())
        assert list(found["layers"]) == [f"neck[{level}]" for level in range(5)]
        for fusion in found["fusions"].values():
            assert fusion["maps"]["fused"]["similarity"] is None
            assert fusion["filters"]["offsets"]["all"]["mean"] > 0
        with pytest.raises(command.CommandError, match="has no semantic labels"):
            command.similarity_of(str(config), checkpoint, images=1, options=options)
