"""The OpenMMLab integration: registration, configs, equivalence to FPN, initialisation, metric."""

import importlib
import importlib.metadata
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

for package in ("mmengine", "mmcv"):
    pytest.importorskip(package, reason=f"{package} is not installed")

import mmengine  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import METRICS, MODELS, DefaultScope  # noqa: E402

from freqfusion.integrations.openmmlab import (  # noqa: E402
    BoundaryIoUMetric,
    FreqFusionCARAFEFPN,
    FreqFusionFPN,
    versions,
)

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "mm_configs"
CHANNELS = [8, 16, 24, 32]


def _library(name, *modules):
    missing = [m for m in (name, *modules) if importlib.util.find_spec(m) is None]
    reason = f"{' and '.join(missing)} not installed"
    return pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=reason))


MMSEG, MMDET = _library("mmseg"), _library("mmdet", "mmcv._ext")
LIBRARIES = [MMSEG, MMDET]


def python(code, *arguments):
    """Runs code in a fresh interpreter and returns the finished process."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def pyramid(height=32, width=48):
    return [
        torch.randn(2, channels, math.ceil(height / 2**i), math.ceil(width / 2**i))
        for i, channels in enumerate(CHANNELS)
    ]


class TestRegistration:
    @pytest.mark.parametrize("neck", [FreqFusionFPN, FreqFusionCARAFEFPN])
    @pytest.mark.parametrize("library", LIBRARIES)
    def test_every_library_builds_the_necks(self, library, neck):
        registry = importlib.import_module(f"{library}.registry").MODELS
        config = dict(type=neck.__name__, in_channels=CHANNELS, out_channels=32, num_outs=5)
        built = registry.build(config)
        assert type(built) is neck
        assert len(built(pyramid(64, 64))) == 5

    @pytest.mark.parametrize("library", LIBRARIES)
    def test_every_library_builds_the_metric(self, library):
        registry = importlib.import_module(f"{library}.registry").METRICS
        assert type(registry.build(dict(type="BoundaryIoUMetric"))) is BoundaryIoUMetric

    def test_importing_twice_is_no_error(self):
        done = python(
            "import importlib, sys, freqfusion.integrations.openmmlab as first\n"
            "for name in [n for n in sys.modules if n.startswith('freqfusion')]:\n"
            "    del sys.modules[name]\n"
            "import freqfusion.integrations.openmmlab as second\n"
            "from mmengine.registry import MODELS\n"
            "assert first is not second\n"
            "assert MODELS.get('FreqFusionFPN') is second.FreqFusionFPN\n"
        )
        assert done.returncode == 0, done.stderr

    def test_needs_neither_libraries_nor_compiled_operators(self):
        done = python(
            "import sys\n"
            "for name in ('mmseg', 'mmdet', 'mmcv.ops', 'mmcv._ext'): sys.modules[name] = None\n"
            "import torch, freqfusion.integrations.openmmlab\n"
            "from mmengine.registry import MODELS\n"
            "neck = MODELS.build(dict(type='FreqFusionFPN', in_channels=[8, 8], out_channels=8,\n"
            "                         num_outs=2, compress_ratio=2))\n"
            "outs = neck([torch.randn(1, 8, 8, 8), torch.randn(1, 8, 4, 4)])\n"
            "assert [tuple(out.shape) for out in outs] == [(1, 8, 8, 8), (1, 8, 4, 4)]\n"
        )
        assert done.returncode == 0, done.stderr

    def test_custom_imports_are_enough(self, tmp_path):
        path = tmp_path / "config.py"
        path.write_text(
            "custom_imports = dict(imports=['freqfusion.integrations.openmmlab'],\n"
            "                      allow_failed_imports=False)\n"
        )
        done = python(
            "import sys\n"
            "from mmengine.config import Config\n"
            "from mmengine.registry import METRICS, MODELS\n"
            "assert 'FreqFusionFPN' not in MODELS\n"
            "Config.fromfile(sys.argv[1])\n"
            "assert {'FreqFusionFPN', 'FreqFusionCARAFEFPN'} <= set(MODELS.module_dict)\n"
            "assert 'BoundaryIoUMetric' in METRICS\n",
            path,
        )
        assert done.returncode == 0, done.stderr


def differences(a, b, path=""):
    """Yields the dotted name of every value that differs between two nested configs."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            yield from differences(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))
    elif a != b:
        yield path


SEGMENTATION = [
    ("scenes/fpn-freqfusion_r18_1xb4-800_scenes-128x256", "scenes/fpn_r18_1xb4-800_scenes-128x256"),
    (
        "cityscapes/fpn-freqfusion_r50_4xb2-80k_cityscapes-512x1024",
        "mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024",
    ),
    (
        "ade20k/fpn-freqfusion_r50_4xb4-160k_ade20k-512x512",
        "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512",
    ),
]
DETECTION = [
    (
        "scenes/faster-rcnn_r18_fpn-freqfusion_1xb2-500_scenes-128x256",
        "scenes/faster-rcnn_r18_fpn_1xb2-500_scenes-128x256",
    ),
    (
        "coco/faster-rcnn_r50_fpn-freqfusion_1x_coco",
        "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco",
    ),
]
TWINS = [
    pytest.param(*library.values, *twin, marks=library.marks, id=twin[0])
    for library, twins in ((MMSEG, SEGMENTATION), (MMDET, DETECTION))
    for twin in twins
]


class TestConfigs:
    @pytest.mark.parametrize("library, fused, plain", TWINS)
    def test_twins_differ_in_the_type_of_the_neck_alone(self, library, fused, plain, tmp_path):
        base = tmp_path / "plain.py"
        place = plain if "::" in plain else CONFIGS / plain
        base.write_text(f"_base_ = '{place}.py'\n")
        ours, theirs = (Config.fromfile(p).to_dict() for p in (CONFIGS / f"{fused}.py", base))
        if "::" in plain:
            ours.pop("custom_imports")
        assert list(differences(ours, theirs)) == ["model.neck.type"]
        assert ours["model"]["neck"]["type"] == "FreqFusionFPN"

    @pytest.mark.parametrize("library, fused, plain", TWINS)
    def test_model_is_built_with_the_neck(self, library, fused, plain):
        config = Config.fromfile(CONFIGS / f"{fused}.py")
        with DefaultScope.overwrite_default_scope(library):
            model = MODELS.build(config.model)
        assert isinstance(model.neck, FreqFusionFPN)
        assert len(model.neck.alignment) == 3

    @pytest.mark.parametrize("library", [MMDET])
    def test_authors_neck(self, library):
        config = Config.fromfile(CONFIGS / "coco/faster-rcnn_r50_fpn-carafe-freqfusion_1x_coco.py")
        with DefaultScope.overwrite_default_scope(library):
            model = MODELS.build(config.model)
        assert isinstance(model.neck, FreqFusionCARAFEFPN)
        assert len(model.neck.alignment) == 4

    def test_finds_configs_of_either_release_of_mmseg(self, monkeypatch):
        from mmengine.config.utils import MODULE2PACKAGE

        for installed, wanted in (({"mmsegmentation"}, "mmsegmentation"), (set(), "mmseg")):
            monkeypatch.setitem(MODULE2PACKAGE, "mmseg", "mmsegmentation")

            def version(name, installed=installed):
                if name not in installed:
                    raise importlib.metadata.PackageNotFoundError(name)
                return "1.2.2"

            monkeypatch.setattr(importlib.metadata, "version", version)
            versions.find_mmseg_configs()
            assert MODULE2PACKAGE["mmseg"] == wanted


SETTINGS = [
    dict(num_outs=4),
    dict(num_outs=5),
    dict(num_outs=6, start_level=1),
    dict(num_outs=5, start_level=1, add_extra_convs="on_input"),
    dict(num_outs=5, add_extra_convs="on_lateral"),
    dict(num_outs=6, add_extra_convs="on_output"),
    dict(num_outs=6, add_extra_convs="on_output", relu_before_extra_convs=True),
    dict(num_outs=4, add_extra_convs="on_input"),
    dict(num_outs=3, end_level=2),
    dict(num_outs=2, start_level=1, end_level=2),
    dict(num_outs=1, start_level=1, end_level=1),
    dict(num_outs=4, norm_cfg=dict(type="BN"), no_norm_on_lateral=True),
    dict(num_outs=5, norm_cfg=dict(type="GN", num_groups=4), act_cfg=dict(type="ReLU")),
    dict(num_outs=4, conv_cfg=dict(type="ConvWS"), upsample_cfg=dict(mode="nearest")),
]


class _PlainFusion(torch.nn.Module):
    """What FPN does in the place of FreqFusion."""

    def forward(self, fine, coarse):
        return None, fine, F.interpolate(coarse, size=fine.shape[2:], mode="nearest")


def twins(library, **settings):
    """Builds a library's FPN and our neck with the same arguments and the FPN's weights."""
    registry = importlib.import_module(f"{library}.registry").MODELS
    importlib.import_module(f"{library}.models")
    settings = dict(in_channels=CHANNELS, out_channels=32, **settings)
    plain = registry.build(dict(type="FPN", **settings))
    fused = registry.build(dict(type="FreqFusionFPN", **settings))
    missing, unexpected = fused.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(key.startswith("alignment.") for key in missing)
    assert bool(missing) == (len(fused.alignment) > 0)
    return plain, fused


@pytest.mark.parametrize("library", LIBRARIES)
class TestEquivalenceToFPN:
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_same_outputs_if_fusions_only_add(self, library, settings):
        if library == "mmseg" and "end_level" in settings:
            settings = {**settings, "end_level": settings["end_level"] + 1}  # mmseg: exclusive
        plain, fused = twins(library, **settings)
        feats = pyramid(34, 50)
        assert [o.shape for o in fused(feats)] == [o.shape for o in plain(feats)]
        for i in range(len(fused.alignment)):
            fused.alignment[i] = _PlainFusion()
        for ours, theirs in zip(fused(feats), plain(feats), strict=True):
            torch.testing.assert_close(ours, theirs)

    @pytest.mark.parametrize("on_inputs", [True, False])
    def test_extra_convs_on_inputs(self, library, on_inputs):
        if library == "mmdet":
            _, fused = twins(library, num_outs=5, add_extra_convs=True)
            assert fused.add_extra_convs == "on_input"
        else:
            settings = dict(num_outs=5, add_extra_convs=True, extra_convs_on_inputs=on_inputs)
            plain, fused = twins(library, **settings)
            assert fused.add_extra_convs == plain.add_extra_convs

    def test_unknown_argument(self, library):
        with pytest.raises(TypeError, match="upsample_config"):
            twins(library, num_outs=4, upsample_config=dict(mode="nearest"))


class TestInitialisation:
    def neck(self, **settings):
        torch.manual_seed(0)
        neck = FreqFusionFPN(CHANNELS, out_channels=32, num_outs=5, **settings)
        for parameter in neck.parameters():
            torch.nn.init.constant_(parameter, 7.0)
        neck.init_weights()
        return neck

    @staticmethod
    def convs(neck):
        return [block.conv for block in (*neck.lateral_convs, *neck.fpn_convs)]

    def check_fusions(self, neck):
        assert len(neck.alignment) == 3
        for fusion in neck.alignment:
            assert 0 < fusion.content_encoder.weight.std() < 0.002
            bound = math.sqrt(6 / (32 + fusion.hr_channel_compressor.out_channels))
            assert 0.8 * bound < fusion.hr_channel_compressor.weight.abs().max() <= bound

    def test_default_is_xavier_for_the_convolutions(self):
        neck = self.neck()
        for conv in self.convs(neck):
            taps = conv.kernel_size[0] ** 2
            bound = math.sqrt(6 / (taps * (conv.in_channels + conv.out_channels)))
            assert 0.9 * bound < conv.weight.abs().max() <= bound
            assert not conv.bias.any()
        self.check_fusions(neck)

    def test_init_cfg_leaves_the_fusions_alone(self):
        neck = self.neck(init_cfg=dict(type="Constant", layer="Conv2d", val=2.0, bias=3.0))
        for conv in self.convs(neck):
            assert (conv.weight == 2).all() and (conv.bias == 3).all()
        self.check_fusions(neck)

    def test_no_init_cfg(self):
        neck = self.neck(init_cfg=None)
        assert all((conv.weight == 7).all() for conv in self.convs(neck))
        self.check_fusions(neck)

    def test_pretrained_weights_reach_the_fusions(self, tmp_path):
        weights = {key: torch.randn_like(v) for key, v in self.neck().state_dict().items()}
        torch.save(weights, tmp_path / "neck.pth")
        neck = self.neck(init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "neck.pth")))
        assert any(key.startswith("alignment.") for key in weights)
        for key, value in neck.state_dict().items():
            torch.testing.assert_close(value, weights[key])


class TestVersions:
    @pytest.mark.parametrize(
        "package, found", [("mmengine", "0.9.1"), ("mmengine", "1.0.0"), ("mmcv", "1.7.2")]
    )
    def test_incompatible(self, monkeypatch, package, found):
        monkeypatch.setattr(importlib.import_module(package), "__version__", found)
        with pytest.raises(ImportError) as error:
            versions.check_versions()
        text = str(error.value)
        assert "\n" not in text
        assert all(part in text for part in (f"{package}>=", f"found {package} {found}", "[mm]"))

    @pytest.mark.parametrize("engine", ["0.10.0", "0.10.12", "0.11.0rc3"])
    @pytest.mark.parametrize("cv", ["2.0.0rc4", "2.1.0", "2.3.6"])
    def test_compatible(self, monkeypatch, engine, cv):
        import mmcv

        monkeypatch.setattr(mmengine, "__version__", engine)
        monkeypatch.setattr(mmcv, "__version__", cv)
        versions.check_versions()

    @pytest.mark.parametrize("package", ["mmengine", "mmcv"])
    def test_missing(self, package):
        done = python(
            f"import sys\nsys.modules['{package}'] = None\n"
            "try:\n    import freqfusion.integrations.openmmlab\n"
            "except ImportError as error:\n    print(error)\n"
        )
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        assert line.startswith(f"freqfusion.integrations.openmmlab needs {package}, which is not")
        assert 'pip install --no-build-isolation "freqfusion[mm]"' in line


def evaluate(pairs, classes=4, **settings):
    """Returns the metric of (prediction, truth) label maps."""
    metric = METRICS.build(dict(type="BoundaryIoUMetric", **settings))
    metric.dataset_meta = dict(classes=[str(i) for i in range(classes)])
    samples = [
        dict(
            pred_sem_seg=dict(data=torch.as_tensor(prediction)[None]),
            gt_sem_seg=dict(data=torch.as_tensor(truth)[None]),
        )
        for prediction, truth in pairs
    ]
    for sample in samples:
        metric.process({}, [sample])
    (name, value), *rest = metric.evaluate(len(samples)).items()
    assert name == "boundary/mIoU" and not rest
    return value


def brute_force(pairs, classes, width, ignored=255):
    """Boundary IoU by its definition, pixel by pixel."""
    intersection, union = np.zeros(classes), np.zeros(classes)
    for prediction, truth in pairs:
        known = truth != ignored
        for label in range(classes):
            near = []
            for mask in ((prediction == label) & known, (truth == label) & known):
                padded = np.pad(mask, width)
                edge = np.zeros_like(mask)
                for y, x in zip(*np.nonzero(mask), strict=True):
                    edge[y, x] = not padded[y : y + 2 * width + 1, x : x + 2 * width + 1].all()
                near.append(edge)
            intersection[label] += (near[0] & near[1]).sum()
            union[label] += (near[0] | near[1]).sum()
    present = union > 0
    return 100 * (intersection[present] / union[present]).mean()


class TestBoundaryIoU:
    @pytest.mark.parametrize("void", [255, 9])
    def test_ignores_what_it_is_told(self, void):
        truth = torch.zeros(12, 12, dtype=torch.long)
        truth[:, 6:] = 1
        wrong = truth.clone()
        truth[4:8], wrong[4:8] = void, 0
        metric = BoundaryIoUMetric(ignore_index=void)
        metric.dataset_meta = {"classes": ["a", "b"]}
        sample = {"gt_sem_seg": {"data": truth[None]}, "pred_sem_seg": {"data": wrong[None]}}
        metric.process({}, [sample])
        assert metric.compute_metrics(metric.results)["mIoU"] == 100

    @pytest.mark.parametrize("ratio, width", [(0.02, 1), (0.05, 2), (0.1, 5)])
    def test_agrees_with_the_definition(self, ratio, width):
        random = np.random.default_rng(0)
        pairs = []
        for _ in range(3):
            truth = np.kron(random.integers(0, 3, (4, 6)), np.ones((7, 6), np.int64))
            prediction = np.where(random.random(truth.shape) < 0.02, 3, np.roll(truth, 1, axis=1))
            truth[random.random(truth.shape) < 0.01] = 255
            pairs.append((prediction, truth))
        assert round(ratio * math.hypot(*pairs[0][0].shape)) == width
        found = evaluate(pairs, dilation_ratio=ratio)
        assert found == pytest.approx(brute_force(pairs, 4, width), abs=0.006)
        assert 5 < found < 95

    def test_perfect_and_hopeless(self):
        truth = np.kron([[0, 1], [2, 0]], np.ones((20, 20), np.int64))
        assert evaluate([(truth, truth)]) == 100
        assert evaluate([((truth + 1) % 3, truth)]) == 0

    def test_ignored_pixels_do_not_count(self):
        truth = np.zeros((40, 40), np.int64)
        truth[:, 20:] = 1
        prediction = truth.copy()
        prediction[10:20, 10:20] = 2
        assert evaluate([(prediction, truth)]) < 100
        truth[10:20, 10:20] = 255
        assert evaluate([(prediction, truth)]) == 100

    def test_sees_a_shift_that_iou_hardly_sees(self):
        truth = np.zeros((200, 200), np.int64)
        truth[20:180, 20:180] = 1
        prediction = np.roll(truth, 2, axis=1)
        pairs = [(prediction, truth)]
        iou = np.mean(
            [
                ((prediction == c) & (truth == c)).sum() / ((prediction == c) | (truth == c)).sum()
                for c in (0, 1)
            ]
        )
        found = evaluate(pairs, classes=2)
        assert found == pytest.approx(brute_force(pairs, 2, 6), abs=0.006)
        assert found < 80 < 95 < 100 * iou

    @pytest.mark.parametrize("library", [MMSEG])
    def test_takes_what_mmseg_models_return(self, library):
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        labels = torch.zeros(1, 16, 16, dtype=torch.int64)
        labels[..., 8:] = 1
        sample = SegDataSample(
            pred_sem_seg=PixelData(data=labels), gt_sem_seg=PixelData(data=labels.byte())
        )
        metric = BoundaryIoUMetric()
        metric.dataset_meta = dict(classes=["a", "b"])
        metric.process({}, [sample.to_dict()])
        assert metric.evaluate(1) == {"boundary/mIoU": 100.0}
