"""The data check finds each fault by name, on scenes in the format of every dataset."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import check_data
from scenes import FORMATS, Settings, generate

for package in ("mmengine", "mmcv"):
    pytest.importorskip(package, reason=f"{package} is not installed")

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "mm_configs"


def needs(*modules):
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")


SEGMENTATION, DETECTION = needs("mmseg"), needs("mmdet", "mmcv._ext")
KINDS = {  # config, format, folder of the data in the scenes
    "cityscapes": ("scenes/fpn_r18_1xb4-800_scenes-128x256.py", "cityscapes", ""),
    "ade20k": (
        "ade20k/fpn-freqfusion_r50_4xb4-160k_ade20k-512x512.py",
        "ade20k",
        "ADEChallengeData2016",
    ),
    "boxes": ("scenes/faster-rcnn_r18_fpn-freqfusion_1xb2-500_scenes-128x256.py", "coco", ""),
    "masks": ("coco/mask-rcnn_r50_fpn-freqfusion_1x_coco.py", "coco", ""),
    "queries": ("coco/mask2former-freqfusion_r50_8xb2-lsj-50e_coco.py", "coco", ""),
    "panoptic": ("coco/panoptic-fpn_r50_fpn-freqfusion_1x_coco.py", "coco", ""),
}
ALL = [
    pytest.param(kind, marks=DETECTION if form == "coco" else SEGMENTATION)
    for kind, (_, form, _) in KINDS.items()
]
CITY = "southtown/southtown_000001_000019"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """One small set per format; tests read them only."""
    roots = {name: tmp_path_factory.mktemp(name) / "data" for name in FORMATS}
    for name, root in roots.items():
        generate(root, Settings(name, size=(64, 96), train=3, val=2))
    return roots


@pytest.fixture
def check(sets, tmp_path, monkeypatch, capsys):
    """Checks a (broken copy of a) set; returns exit code, output and the lines of stderr."""

    def run(kind, damage=None, arguments=("--splits", "val", "--samples", "0"), options=()):
        config, form, folder = KINDS[kind]
        root = sets[form] / folder
        if damage:
            shutil.copytree(sets[form], tmp_path / "copy")
            root = tmp_path / "copy" / folder
            damage(root)
        line = ["check_data.py", CONFIGS / config, *arguments]
        line += ["--cfg-options", f"data_root={root}/", *options]
        monkeypatch.setattr(sys, "argv", list(map(str, line)))
        code = check_data.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err.splitlines()

    return run


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def paint(path, value):
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    label[3:5, 3:5] = value
    cv2.imwrite(str(path), label)


def shrink(path):
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), image[:-8])


def edit(path, change):
    """Changes a JSON file in place."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def instances(change):
    return lambda root: edit(root / "annotations/instances_val2017.json", change)


def panoptic(change):
    return lambda root: edit(root / "annotations/panoptic_val2017.json", change)


def first(**values):
    return instances(lambda document: document["annotations"][0].update(values))


class TestClean:
    @pytest.mark.parametrize("kind", ALL)
    def test_passes_and_draws(self, check, kind, tmp_path):
        out = tmp_path / "pictures"
        code, printed, errors = check(kind, arguments=("--samples", "1", "--out", out))
        assert code == 0 and not errors, printed
        train, val = (line for line in printed.splitlines() if not line.startswith(" "))
        assert train.startswith("train: ") and "3 images" in train and "0 problems" in train
        assert val.startswith("val, test: ") and "2 images" in val and "0 problems" in val
        assert "note: the full set has" in printed
        assert ("label maps" in train) == (kind in ("cityscapes", "ade20k", "panoptic"))
        pictures = [cv2.imread(str(path)) for path in sorted(out.iterdir())]
        assert len(pictures) == 2
        for picture in pictures:
            assert picture.shape[0] >= 64 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50

    @DETECTION
    def test_panoptic_needs_a_package_that_is_not_on_pypi(self, check):
        code, printed, _ = check("panoptic")
        named = "note: panopticapi is not installed" in printed
        assert code == 0 and named == (importlib.util.find_spec("panopticapi") is None)

    @SEGMENTATION
    def test_workers_find_the_same(self, check):
        one, two = (("--samples", "0", "--workers", number) for number in (1, 2))
        assert check("cityscapes", arguments=one) == check("cityscapes", arguments=two)

    @DETECTION
    def test_masks_alone_need_no_label_maps(self, check):
        def damage(root):
            shutil.rmtree(root / "annotations/panoptic_val2017")

        assert check("queries", damage)[0] == 0
        assert check("panoptic", arguments=("--splits", "val"))[0] == 0

    @SEGMENTATION
    def test_picture_shows_the_labels(self, check, tmp_path, sets):
        out = tmp_path / "pictures"
        check("cityscapes", arguments=("--splits", "val", "--samples", "1", "--out", out))
        (path,) = out.iterdir()
        place = "southtown/southtown_000000_000019"
        image = cv2.imread(str(sets["cityscapes"] / f"leftImg8bit/val/{place}_leftImg8bit.png"))
        label = cv2.imread(
            str(sets["cityscapes"] / f"gtFine/val/{place}_gtFine_labelTrainIds.png"), -1
        )
        picture = cv2.imread(str(path)).astype(int)
        road = picture[label == 0] * 2 - image[label == 0]
        np.testing.assert_allclose(np.median(road, axis=0), (128, 64, 128), atol=2)


FAULTS = {
    "missing label": (
        "cityscapes",
        lambda root: (root / f"gtFine/val/{CITY}_gtFine_labelTrainIds.png").unlink(),
        [f"label {{root}}/gtFine/val/{CITY}_gtFine_labelTrainIds.png is missing"],
    ),
    "label without image": (
        "cityscapes",
        lambda root: (root / f"leftImg8bit/val/{CITY}_leftImg8bit.png").unlink(),
        [f"label {{root}}/gtFine/val/{CITY}_gtFine_labelTrainIds.png has no image"],
    ),
    "value of Cityscapes": (
        "cityscapes",
        lambda root: paint(root / f"gtFine/val/{CITY}_gtFine_labelTrainIds.png", 19),
        [f"{CITY}_gtFine_labelTrainIds.png has the values 19; classes are 0 to 18, 255 is void"],
    ),
    "value of ADE20K": (
        "ade20k",
        lambda root: paint(root / "annotations/validation/ADE_val_00000002.png", 151),
        ["ADE_val_00000002.png has the values 151; classes are 1 to 150, 0 and 255 are void"],
    ),
    "truncated label": (
        "ade20k",
        lambda root: cut(root / "annotations/validation/ADE_val_00000002.png"),
        ["label {root}/annotations/validation/ADE_val_00000002.png cannot be read: "],
    ),
    "truncated PNG": (
        "cityscapes",
        lambda root: cut(root / f"leftImg8bit/val/{CITY}_leftImg8bit.png"),
        [f"image {{root}}/leftImg8bit/val/{CITY}_leftImg8bit.png cannot be read: "],
    ),
    "truncated JPEG": (
        "ade20k",
        lambda root: cut(root / "images/validation/ADE_val_00000001.jpg", 0.95),
        ["image {root}/images/validation/ADE_val_00000001.jpg cannot be read: ", "truncated"],
    ),
    "no image at all": (
        "boxes",
        lambda root: (root / "val2017/000000000002.jpg").write_text("<html>not found</html>"),
        ["image {root}/val2017/000000000002.jpg is not an image"],
    ),
    "colours for labels": (
        "ade20k",
        lambda root: cv2.imwrite(
            str(root / "annotations/validation/ADE_val_00000001.png"),
            np.zeros((64, 96, 3), np.uint8),
        ),
        ["ADE_val_00000001.png has 3 channels, it must have one"],
    ),
    "sizes of image and label": (
        "ade20k",
        lambda root: shrink(root / "annotations/validation/ADE_val_00000002.png"),
        ["ADE_val_00000002.jpg is 64x96", "ADE_val_00000002.png is 56x96"],
    ),
    "sizes of image and annotation": (
        "boxes",
        lambda root: shrink(root / "val2017/000000000002.jpg"),
        ["the annotation is 64x96", "000000000002.jpg is 56x96"],
    ),
    "annotation without file": (
        "boxes",
        lambda root: (root / "val2017/000000000002.jpg").unlink(),
        ["image {root}/val2017/000000000002.jpg is missing"],
    ),
    "box outside": (
        "boxes",
        first(bbox=[90, 10, 20, 20]),
        ["annotation 1 of 000000000001.jpg: box (90, 10, 110, 30) is outside of the image, 64x96"],
    ),
    "empty box": (
        "masks",
        first(bbox=[10, 10, 20, 0]),
        ["annotation 1 of 000000000001.jpg: box (10, 10, 30, 10) is empty"],
    ),
    "unknown category": (
        "boxes",
        first(category_id=999),
        ["annotation 1 of 000000000001.jpg: unknown category 999"],
    ),
    "unknown image": (
        "boxes",
        first(image_id=77),
        ["annotation 1: there is no image with id 77"],
    ),
    "missing category": (
        "boxes",
        instances(lambda document: document["categories"].pop()),
        ["the categories lack 1 classes of the dataset, such as toothbrush"],
    ),
    "order of categories": (
        "boxes",
        instances(lambda document: document["categories"].reverse()),
        ["the categories stand in another order than the classes of the dataset"],
    ),
    "no JSON": (
        "boxes",
        lambda root: cut(root / "annotations/instances_val2017.json"),
        ["instances_val2017.json cannot be read: JSONDecodeError"],
    ),
    "panoptic category": (
        "panoptic",
        panoptic(lambda d: d["annotations"][0]["segments_info"][0].update(category_id=999)),
        ["of 000000000001.jpg: unknown category 999"],
    ),
    "image without segments": (
        "panoptic",
        panoptic(lambda document: document["annotations"].pop()),
        ["image 000000000002.jpg has no annotation"],
    ),
    "unknown segment": (
        "panoptic",
        lambda root: paint(root / "annotations/panoptic_val2017/000000000002.png", (0, 1, 2)),
        ["panoptic_val2017/000000000002.png has segments without annotation: 258"],
    ),
    "lost segment": (
        "panoptic",
        panoptic(lambda d: d["annotations"][0]["segments_info"][0].update(id=7)),
        ["000000000001.png lacks annotated segments: 7"],
    ),
    "missing segments": (
        "panoptic",
        lambda root: (root / "annotations/panoptic_val2017/000000000002.png").unlink(),
        ["label {root}/annotations/panoptic_val2017/000000000002.png is missing"],
    ),
}


class TestFaults:
    @pytest.mark.parametrize(
        "fault",
        [
            pytest.param(name, marks=DETECTION if KINDS[kind][1] == "coco" else SEGMENTATION)
            for name, (kind, _, _) in FAULTS.items()
        ],
    )
    def test_is_found_and_named(self, check, fault, tmp_path):
        kind, damage, expected = FAULTS[fault]
        code, printed, errors = check(kind, damage)
        assert code == 1 and not errors
        root = tmp_path / "copy" / KINDS[kind][2]
        for text in expected:
            assert text.replace("{root}", str(root)) in printed, printed

    @SEGMENTATION
    def test_a_broken_image_is_one_problem(self, check):
        damage = lambda root: cut(root / f"leftImg8bit/val/{CITY}_leftImg8bit.png")  # noqa: E731
        code, printed, _ = check("cityscapes", damage, ("--splits", "val"))
        assert code == 1 and ", 1 problem\n" in printed and "the pipeline fails" not in printed

    def test_ten_are_shown(self, check):
        def damage(root):
            for number in range(12):
                shutil.copy(
                    root / "images/validation/ADE_val_00000001.jpg",
                    root / f"images/validation/extra_{number}.jpg",
                )

        code, printed, _ = check("ade20k", damage)
        assert code == 1 and "14 images, 2 label maps, 12 problems" in printed
        assert printed.count("is missing") == 10 and "  and 2 more" in printed

    @SEGMENTATION
    def test_pipeline_that_fails(self, check):
        step = "val_dataloader.dataset.pipeline.1.scale=None"
        code, printed, errors = check("ade20k", arguments=("--splits", "val"), options=[step])
        assert code == 1 and not errors
        assert "the pipeline cannot be built: " in printed

    @SEGMENTATION
    def test_sample_that_fails(self, check):
        option = "val_dataloader.dataset.reduce_zero_label=False"  # not so when labels are loaded
        code, printed, _ = check("ade20k", arguments=("--splits", "val"), options=[option])
        assert code == 1
        assert "the pipeline fails on" in printed and "reduce_zero_label" in printed

    @SEGMENTATION
    def test_labels_that_were_not_converted(self, check):
        def damage(root):
            for path in root.rglob("*_labelTrainIds.png"):
                path.unlink()

        code, printed, _ = check("cityscapes", damage)
        assert code == 1 and "0 label maps, 2 problems" in printed
        assert f"note: {check_data.TRAIN_IDS}" in printed

    @SEGMENTATION
    def test_another_number_of_classes_is_a_note(self, check):
        option = "model.decode_head.num_classes=20"
        code, printed, _ = check("cityscapes", options=[option])
        assert code == 0
        assert "note: num_classes is 20 in the model, the dataset has 19 classes" in printed

    @DETECTION
    def test_image_that_is_not_listed_is_a_note(self, check):
        def damage(root):
            shutil.copy(root / "val2017/000000000001.jpg", root / "val2017/extra.jpg")

        code, printed, _ = check("boxes", damage)
        assert code == 0 and "note: 1 images are not in" in printed and "extra.jpg" in printed

    @DETECTION
    def test_image_without_objects_is_a_note(self, check):
        def damage(root):
            def change(document):
                kept = [part for part in document["annotations"] if part["image_id"] != 2]
                document["annotations"] = kept

            edit(root / "annotations/instances_train2017.json", change)

        code, printed, _ = check("masks", damage, ("--splits", "train", "--samples", "0"))
        assert code == 0 and "note: the dataset leaves out 1 images by its filter_cfg" in printed

    @SEGMENTATION
    def test_empty_folder(self, check):
        def damage(root):
            for folder in ("images", "annotations"):
                for path in (root / folder / "validation").iterdir():
                    path.unlink()

        code, printed, _ = check("ade20k", damage)
        assert code == 1 and "images/validation has no images" in printed


@SEGMENTATION
class TestRefusals:
    def test_nothing_is_overwritten(self, check, tmp_path):
        out = tmp_path / "pictures"
        arguments = ("--splits", "val", "--out", out)
        assert check("cityscapes", arguments=arguments)[0] == 0
        before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
        code, _, errors = check("cityscapes", arguments=arguments)
        assert code == 2
        assert errors == [f"check_data.py: --out must be a new or empty folder, got {out}"]
        assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before

    def test_missing_part(self, check):
        code, _, (line,) = check("cityscapes", lambda root: shutil.rmtree(root / "gtFine/val"))
        assert code == 2 and "gtFine/val for the val dataset" in line and "data_root=" in line

    def test_unknown_folder(self, tmp_path):
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / "check_data.py", CONFIGS / KINDS["cityscapes"][0]],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2 and not done.stdout
        assert line.startswith("check_data.py: there is no dataset folder data/scenes; ")

    @pytest.mark.parametrize("option", ["--samples=-1", "--workers=0"])
    def test_numbers(self, check, option):
        code, _, (line,) = check("cityscapes", arguments=(option,))
        assert code == 2 and "must be 0 or more and --workers 1 or more" in line
