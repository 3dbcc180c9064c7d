"""Command lines that draw and count."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg", reason="the tools need mmseg")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
CONFIG = ROOT / "mm_configs" / "scenes" / "fpn-freqfusion_r18_1xb4-800_scenes-128x256.py"


def tool(name, *arguments, code=0):
    command = [sys.executable, ROOT / "tools" / f"{name}.py", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    tool("make_scenes", folder, "--format", "cityscapes", "--train", 1, "--val", 3)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights of the config's model, as MMEngine saves them."""
    from _config import load_config
    from _models import build

    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"state_dict": build(load_config(str(CONFIG), [])).state_dict()}, path)
    return path


def test_infer_draws_every_image_of_a_folder(scenes, checkpoint, tmp_path):
    from PIL import Image

    images = next((scenes / "leftImg8bit" / "val").iterdir())
    out = tool("infer", CONFIG, checkpoint, images, "--out", tmp_path / "pictures")
    assert f"3 pictures in {tmp_path / 'pictures'}" in out
    for image in images.iterdir():
        with Image.open(image) as before, Image.open(tmp_path / "pictures" / image.name) as after:
            assert before.size == after.size
            assert before.tobytes() != after.convert("RGB").tobytes()
    tool("infer", CONFIG, checkpoint, images, "--out", tmp_path / "clear", "--opacity", 0)
    for image in images.iterdir():
        with Image.open(image) as before, Image.open(tmp_path / "clear" / image.name) as after:
            assert before.convert("RGB").tobytes() == after.convert("RGB").tobytes()
    again = tool("infer", CONFIG, checkpoint, images, "--out", tmp_path / "pictures", code=2)
    assert re.fullmatch(r"infer.py: .*\.png exists already; choose another --out\n", again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: "missing.pth"}, "there is no checkpoint missing.pth"),
        ({2: "missing.png"}, "there is no image missing.png"),
        ({0: "missing.py"}, "there is no config missing.py"),
    ],
)
def test_infer_says_what_is_missing(change, message, scenes, checkpoint, tmp_path):
    arguments = [CONFIG, checkpoint, scenes / "scenes.json", "--out", tmp_path / "out"]
    for place, value in change.items():
        arguments[place] = value
    assert tool("infer", *arguments, code=2).splitlines()[-1] == f"infer.py: {message}"
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("mmcv._ext") is None, reason="needs mmcv._ext")
def test_infer_draws_boxes_from_a_score_on(tmp_path):
    from _config import load_config
    from _models import build
    from PIL import Image

    config = CONFIG.with_name("faster-rcnn_r18_fpn-freqfusion_1xb2-500_scenes-128x256.py")
    model, image = tmp_path / "model.pth", tmp_path / "image.png"
    torch.save({"state_dict": build(load_config(str(config), [])).state_dict()}, model)
    Image.new("RGB", (256, 128), (128, 128, 128)).save(image)
    options = ["--cfg-options", "model.test_cfg.rcnn.score_thr=0"]
    for score in (0, 1):
        out = tmp_path / str(score)
        tool("infer", config, model, image, "--out", out, "--score", score, *options)
    assert (tmp_path / "0/image.png").read_bytes() != (tmp_path / "1/image.png").read_bytes()


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"dataset_meta": {"classes": ("a",), "palette": [[1, 2, 3]]}}, ("a",)),
        ({"CLASSES": ("b",)}, ("b",)),
        ({}, ("own",)),
    ],
)
def test_infer_names_classes_as_the_checkpoint_or_the_config(meta, expected, tmp_path):
    infer = importlib.import_module("infer")
    model = torch.nn.Conv2d(1, 1, 1)
    torch.save({"state_dict": model.state_dict(), "meta": meta}, tmp_path / "model.pth")
    known = [{"classes": ("own",)}, {"classes": ("of", "the", "class"), "palette": [[0, 0, 0]]}]
    found = infer._load(model, str(tmp_path / "model.pth"), known)
    assert found["classes"] == expected
    assert found["palette"] == meta.get("dataset_meta", known[1])["palette"]


def test_dist_train_runs_two_processes(scenes, tmp_path):
    """On CPUs too, and with activation checkpointing in the neck."""
    options = ["train_cfg.max_iters=3", "train_cfg.val_interval=3", f"data_root={scenes}"]
    options += ["default_hooks.logger.interval=1", "model.neck.use_checkpoint=True"]
    command = ["bash", ROOT / "tools" / "dist_train.sh", CONFIG, 2, "--work-dir", tmp_path / "run"]
    done = subprocess.run(
        [*map(str, command), "--cfg-options", "train_dataloader.batch_size=1", *options],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    log = next((tmp_path / "run").glob("*/*.log")).read_text()
    assert "Distributed launcher: pytorch" in log and "GPU number: 2" in log
    assert len(re.findall(r"Iter\(train\) \[\d/3\]", log)) == 3
    assert "boundary/mIoU" in log


def test_get_flops_counts_the_operators():
    """The fused twin costs more than the plain one, and both counters see it."""
    plain = CONFIG.with_name("fpn_r18_1xb4-800_scenes-128x256.py")
    counts = []
    for config in (CONFIG, plain):
        out = tool("get_flops", config, "--shape", 128, 256)
        counts.append([float(n) for n in re.findall(r"([\d.]+) (?:M|G)", out)])
    (fused_size, fused_flops, fused_macs), (plain_size, plain_flops, plain_macs) = counts
    assert (fused_size, plain_size) == (3.35, 3.27)
    assert fused_flops - plain_flops == pytest.approx(2 * (fused_macs - plain_macs), rel=0.1)
    assert fused_flops > plain_flops
    assert fused_flops == pytest.approx(2 * fused_macs, rel=0.05)


class TestExport:
    def test_program_with_open_sizes(self, checkpoint, tmp_path):
        path = tmp_path / "model.pt2"
        out = tool("export", CONFIG, path, "--checkpoint", checkpoint, "--size", 64, 96)
        assert re.search(r"1 outputs, off by \d\.\de-?\+?\d+ at \(1, 3, 96, 128\)", out)
        program = torch.export.load(path).module()
        scores = program(torch.randn(3, 3, 64, 160))
        assert [tuple(each.shape) for each in scores] == [(3, 19, 16, 40)]

    def test_onnx_runs_in_onnxruntime(self, checkpoint, tmp_path):
        pytest.importorskip("onnxruntime")
        path = tmp_path / "model.onnx"
        options = ["--checkpoint", checkpoint, "--size", 64, 64, "--fixed"]
        assert f"{path}: 1 outputs, off by" in tool("export", CONFIG, path, *options)
        assert path.stat().st_size > 1e6

    @pytest.mark.parametrize("wrong", [[1.0, 3.0], [1.0, float("nan")], [[1.0, 2.0]]])
    def test_wrong_output_is_found(self, wrong):
        sys.path.insert(0, str(ROOT / "tools"))
        from export import agree

        right = [torch.ones(2), torch.tensor([1.0, 2.0])]
        assert agree([x.clone() for x in right], right) == 0
        assert not agree([right[0], torch.tensor(wrong)], right) <= 1e-4

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("model.bin", [], "OUT must end in .onnx or .pt2, got {path}"),
            ("model.pt2", ["--size", 65, 96], "--size must be multiples of 32, got [65, 96]"),
            ("there.pt2", [], "{path} exists already; choose another name"),
        ],
    )
    def test_says_what_is_wrong(self, name, options, message, tmp_path):
        (tmp_path / "there.pt2").touch()
        path = tmp_path / name
        error = tool("export", CONFIG, path, *options, code=2)
        assert error.splitlines()[-1] == f"export.py: {message.format(path=path)}"


def test_rehearsal_trains_a_config_of_a_real_dataset(tmp_path):
    config = "segformer_mit-b0_freqfusion_8xb2-160k_ade20k-512x512"
    options = ["--iterations", 3, "--size", 64, 64, "--train", 2, "--val", 1]
    command = ["rehearse", ROOT / f"mm_configs/ade20k/{config}.py", *options]
    table = tool(*command, "--work-dir", tmp_path).splitlines()[-2]
    cells = [cell.strip() for cell in table.strip("| ").split("|")]
    assert cells[:2] == [config, "3"]
    assert all(0 < float(loss) < 100 for loss in cells[2:4])
    assert re.fullmatch(r"mIoU \S+", cells[-1])


def test_a_model_with_connectors_is_the_plain_one_to_the_tools():
    sys.path.insert(0, str(ROOT / "tools"))
    from _config import load_config, without_connectors

    config = load_config(str(CONFIG), [])
    plain = config.model
    assert without_connectors(config).model is plain
    config.model = dict(type="FramerModelWrapper", model=plain, connectors={})
    assert without_connectors(config).model.to_dict() == plain.to_dict()


class TestPanopticQuality:
    """Of the module that stands in for panopticapi."""

    @pytest.fixture
    def panopticapi(self, monkeypatch):
        monkeypatch.syspath_prepend(str(ROOT / "tools"))
        before = set(sys.modules)
        yield importlib.import_module("panopticapi_stand_in")
        for name in [name for name in set(sys.modules) - before if name.startswith("panopticapi")]:
            del sys.modules[name]  # other tests are of machines without it

    def test_ids_and_colours(self, panopticapi):
        import numpy as np

        ids = np.array([[0, 1], [256, 197 + 256 * 3 + 65536 * 7]])
        colours = panopticapi.id2rgb(ids)
        assert colours.dtype == np.uint8
        assert colours[1].tolist() == [[0, 1, 0], [197, 3, 7]]
        assert (panopticapi.rgb2id(colours) == ids).all()

    def test_quality(self, panopticapi):
        one, two = panopticapi.PQStat(), panopticapi.PQStat()
        one[1].iou, one[1].tp, one[1].fp = 0.9, 1, 1
        two[1].iou, two[1].tp, two[1].fn = 0.6, 1, 1
        two[7].fn = 2
        one += two
        categories = {1: {"isthing": 1}, 7: {"isthing": 0}, 8: {"isthing": 0}}
        means, each = one.pq_average(categories, isthing=None)
        assert each[1] == pytest.approx({"pq": 1.5 / 3, "sq": 0.75, "rq": 2 / 3})
        assert means == pytest.approx({"pq": 0.25, "sq": 0.375, "rq": 1 / 3, "n": 2})
        assert one.pq_average(categories, isthing=True)[0]["pq"] == pytest.approx(0.5)
        assert one.pq_average(categories, isthing=False)[0]["n"] == 1
