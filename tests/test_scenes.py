"""Tests of the scene generator in tools/."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import make_scenes
from scenes import CATEGORIES, FORMATS, Progress, Settings, generate
from scenes.categories import INDEX
from scenes.dataset import MARKER
from scenes.formats import read_png
from scenes.outlines import polygons, run_lengths
from scenes.render import Scene, render
from scenes.textures import TEXTURES

SIZE = (128, 256)
TRAIN, VAL = 4, 2


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small set per format; tests read them only."""
    roots = {name: tmp_path_factory.mktemp(name) for name in FORMATS}
    for name, root in roots.items():
        generate(root, Settings(name, train=TRAIN, val=VAL))
    return roots


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render(0, "train", index, SIZE) for index in range(40)]


def contents(root: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones included."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


class TestScene:
    def test_same_arguments_same_scene(self, scenes):
        for first, second in zip(scenes[3], render(0, "train", 3, SIZE), strict=True):
            np.testing.assert_array_equal(first, second)

    @pytest.mark.parametrize("other", [(1, "train", 3), (0, "val", 3), (0, "train", 4)])
    def test_every_argument_matters(self, scenes, other):
        assert (render(*other, SIZE).image != scenes[3].image).mean() > 0.5

    @pytest.mark.parametrize("size", [(32, 32), (64, 300), (200, 90)])
    def test_any_size(self, size):
        scene = render(0, "val", 0, size)
        assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
        assert scene.category.shape == scene.instance.shape == size

    def test_an_instance_has_one_category(self, scenes):
        for scene in scenes:
            pairs = np.unique(np.stack([scene.instance, scene.category], -1).reshape(-1, 2), axis=0)
            assert len(pairs) == len(np.unique(scene.instance))

    def test_every_category_appears(self, scenes):
        shares = np.bincount(np.concatenate([scene.category.ravel() for scene in scenes]))
        assert len(shares) == len(CATEGORIES)
        assert shares.min() / shares.sum() > 0.002

    def test_thin_structures(self, scenes):
        """Opening with a 4x4 square removes what is at most 3 pixels thick."""
        thin = [thin_share(scene.category == INDEX["pole"]) for scene in scenes]
        assert np.median(thin) > 0.9

    def test_holes_show_what_is_behind(self, scenes):
        holed = [
            has_hole(scene.instance == n) for scene in scenes for n in np.unique(scene.instance)[2:]
        ]
        assert np.mean(holed) > 0.1

    def test_sizes_vary(self, scenes):
        areas = np.concatenate([np.unique(s.instance, return_counts=True)[1][2:] for s in scenes])
        low, high = np.percentile(areas, (10, 90))
        assert high / low > 20


class TestTexture:
    @pytest.mark.parametrize("name", TEXTURES)
    def test_is_standardised_and_band_limited(self, name):
        field = TEXTURES[name](np.random.default_rng(0), (128, 128))
        assert field.dtype == np.float32
        assert abs(field.mean()) < 1e-3 and field.std() == pytest.approx(1, abs=1e-2)
        power = np.abs(np.fft.fft2(field)) ** 2
        frequency = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(128)]))
        assert power[frequency < 1 / 25].sum() < 0.15 * power.sum()

    def test_colour_does_not_give_the_category_away(self):
        accuracy, chance = balanced_accuracy(lambda image, mask: image[mask].mean(axis=0))
        assert accuracy < 1.5 * chance

    def test_texture_does(self):
        accuracy, chance = balanced_accuracy(band_energies)
        assert accuracy > 4 * chance


class TestGenerate:
    @pytest.mark.parametrize("name", FORMATS)
    def test_same_bytes_with_any_number_of_workers(self, sets, tmp_path, name):
        generate(tmp_path, Settings(name, train=TRAIN, val=VAL), workers=2)
        assert contents(tmp_path) == contents(sets[name])

    @pytest.mark.parametrize("name", FORMATS)
    def test_goes_on_where_it_stopped(self, sets, tmp_path, name):
        settings = Settings(name, train=TRAIN, val=VAL)
        generate(tmp_path, settings)
        paths = sorted(path for path in tmp_path.rglob("*.*") if path.name != MARKER)
        times = {path: path.stat().st_mtime_ns for path in paths}
        for path in paths[::3]:
            path.unlink()
            del times[path]
        generate(tmp_path, settings)
        assert contents(tmp_path) == contents(sets[name])
        assert {path: path.stat().st_mtime_ns for path in times} == times

    @pytest.mark.parametrize("name", FORMATS)
    def test_grows(self, sets, tmp_path, name):
        generate(tmp_path, Settings(name, train=1, val=0))
        generate(tmp_path, Settings(name, train=TRAIN, val=VAL))
        assert contents(tmp_path) == contents(sets[name])


class TestCommand:
    def test_writes_a_set(self, sets, tmp_path, capsys):
        options = ["--format", "ade20k", "--train", str(TRAIN), "--val", str(VAL)]
        assert make_scenes.main([str(tmp_path / "new"), *options]) == 0
        assert contents(tmp_path / "new") == contents(sets["ade20k"])
        output = capsys.readouterr()
        assert output.out == "" and output.err.count("\n") == 1

    @pytest.mark.parametrize(
        "options, words",
        [
            ("--format coco --train 4 --val 2", "format must be ade20k"),
            ("--format ade20k --train 4 --val 2 --seed 7", "seed must be 0"),
            ("--format ade20k --train 4 --val 2 --size 64x64", "size must be [128, 256]"),
            ("--format ade20k --train 3 --val 2", "train must be at least 4"),
        ],
    )
    def test_refuses_other_settings(self, sets, capsys, options, words):
        before = contents(sets["ade20k"])
        assert make_scenes.main([str(sets["ade20k"]), *options.split()]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
        assert contents(sets["ade20k"]) == before

    @pytest.mark.parametrize("name", ["notes.txt", MARKER])
    def test_refuses_foreign_data(self, tmp_path, capsys, name):
        (tmp_path / name).write_text("mine")
        for out in (tmp_path, tmp_path / name):
            assert make_scenes.main([str(out), "--format", "coco"]) == 2
            assert "OUT must" in capsys.readouterr().err
        assert contents(tmp_path) == {name: b"mine"}

    @pytest.mark.parametrize(
        "option, value",
        [("--size", "128"), ("--size", "8x8"), ("--train", "-1"), ("--workers", "0")],
    )
    def test_names_argument_and_value(self, tmp_path, capsys, option, value):
        with pytest.raises(SystemExit, match="2"):
            make_scenes.main([str(tmp_path), "--format", "coco", f"{option}={value}"])
        assert f"argument {option}: must be" in (error := capsys.readouterr().err)
        assert f"got '{value}'" in error

    def test_progress_is_for_terminals(self):
        terminal, pipe = StringIO(), StringIO()
        terminal.isatty = lambda: True
        for stream in (terminal, pipe):
            progress = Progress(stream, interval=0)
            for done in (1, 2):
                progress.update(done, 2)
        assert pipe.getvalue() == ""
        assert terminal.getvalue().count("\r") == 2 and terminal.getvalue().count("\n") == 1


class TestCityscapes:
    def test_files(self, sets):
        place = "train/northtown/northtown_000003_000019"
        expected = {f"leftImg8bit/{place}_leftImg8bit.png"} | {
            f"gtFine/{place}_gtFine_{kind}.png"
            for kind in ("labelIds", "labelTrainIds", "instanceIds")
        }
        assert expected <= contents(sets["cityscapes"]).keys()
        assert len(contents(sets["cityscapes"])) == 4 * (TRAIN + VAL) + 1

    def test_labels_agree(self, sets):
        for path in sets["cityscapes"].rglob("*_labelIds.png"):
            labels, train_ids, instances = (
                read_png(path.with_name(path.name.replace("labelIds", kind)))
                for kind in ("labelIds", "labelTrainIds", "instanceIds")
            )
            assert (labels.dtype, train_ids.dtype, instances.dtype) == ("u1", "u1", "u2")
            known = {
                0: 7,
                2: 11,
                4: 13,
                5: 17,
                7: 20,
                8: 21,
                10: 23,
                11: 24,
                13: 26,
                18: 33,
                255: 4,
            }
            for train_id in np.unique(train_ids):
                assert (labels[train_ids == train_id] == known[train_id]).all()
            things = labels >= 24
            np.testing.assert_array_equal(instances[things] // 1000, labels[things])
            np.testing.assert_array_equal(instances[~things], labels[~things])

    def test_mmseg_reads_it(self, sets):
        datasets = pytest.importorskip("mmseg.datasets", reason="mmseg is not installed")
        prefix = {"img_path": "leftImg8bit/train", "seg_map_path": "gtFine/train"}
        values = mmseg_values(datasets.CityscapesDataset, sets["cityscapes"], prefix)
        assert values <= {0, 2, 4, 5, 7, 8, 10, 11, 13, 18, 255} and len(values) > 8


class TestADE20K:
    def test_files(self, sets):
        files = contents(sets["ade20k"])
        root = "ADEChallengeData2016"
        assert f"{root}/images/training/ADE_train_00000001.jpg" in files
        assert f"{root}/annotations/validation/ADE_val_00000002.png" in files
        assert (
            files[f"{root}/sceneCategories.txt"].decode().splitlines()[-1]
            == "ADE_val_00000002 street"
        )
        assert len(files) == 2 * (TRAIN + VAL) + 3

    def test_object_info(self, sets):
        text = (sets["ade20k"] / "ADEChallengeData2016/objectInfo150.txt").read_text()
        rows = [line.split("\t") for line in text.splitlines()]
        assert rows[0] == ["Idx", "Ratio", "Train", "Val", "Name"] and len(rows) == 151
        assert rows[3][2:] == [str(TRAIN), str(VAL), "sky"]
        assert sum(float(row[1]) for row in rows[1:]) == pytest.approx(1, abs=0.03)

    def test_mmseg_reads_it(self, sets):
        datasets = pytest.importorskip("mmseg.datasets", reason="mmseg is not installed")
        prefix = {"img_path": "images/training", "seg_map_path": "annotations/training"}
        root = sets["ade20k"] / "ADEChallengeData2016"
        values = mmseg_values(datasets.ADE20KDataset, root, prefix)
        names = [
            datasets.ADE20KDataset.METAINFO["classes"][value].strip() for value in values - {255}
        ]
        expected = "sky road building tree fence pole signboard person car bicycle"
        assert set(names) <= set(expected.split()) and len(names) > 8


@pytest.mark.parametrize("split, count", [("train", TRAIN), ("val", VAL)])
class TestCoco:
    def test_index(self, sets, split, count):
        for kind, categories in (("instances", 80), ("panoptic", 133)):
            document = load(sets["coco"], kind, split)
            assert len(document["categories"]) == categories
            assert [image["id"] for image in document["images"]] == list(range(1, count + 1))
            for image in document["images"]:
                picture = cv2.imread(str(sets["coco"] / f"{split}2017" / image["file_name"]))
                assert picture.shape[:2] == (image["height"], image["width"])

    def test_segments_agree_with_the_png(self, sets, split, count):
        document = load(sets["coco"], "panoptic", split)
        things = {entry["id"]: entry["isthing"] for entry in document["categories"]}
        assert sum(things.values()) == 80
        for annotation in document["annotations"]:
            ids = segment_ids(sets["coco"], split, annotation["file_name"])
            segments = {segment["id"]: segment for segment in annotation["segments_info"]}
            assert segments.keys() == set(np.unique(ids)) - {0}
            for number, segment in segments.items():
                assert_measures(segment, ids == number)
                assert segment["category_id"] in things

    def test_masks_agree_with_the_png(self, sets, split, count):
        annotations = load(sets["coco"], "instances", split)["annotations"]
        assert [entry["id"] for entry in annotations] == list(range(1, len(annotations) + 1))
        shapes = [type(annotation["segmentation"]) for annotation in annotations]
        assert list in shapes and dict in shapes
        for image in range(1, count + 1):
            ids = segment_ids(sets["coco"], split, f"{image:012d}.png")
            masks = [ids == number for number in np.unique(ids[ids >= 1000])]
            mine = [annotation for annotation in annotations if annotation["image_id"] == image]
            for annotation, mask in zip(mine, masks, strict=True):
                assert_measures(annotation, mask)
                np.testing.assert_array_equal(decode(annotation["segmentation"], mask.shape), mask)


class TestMMDetection:
    def test_categories(self, sets):
        datasets = pytest.importorskip("mmdet.datasets", reason="mmdet is not installed")
        categories = load(sets["coco"], "panoptic", "val")["categories"]
        names = tuple(category["name"] for category in categories)
        things = tuple(category["name"] for category in categories if category["isthing"])
        assert names == datasets.CocoPanopticDataset.METAINFO["classes"]
        assert things == datasets.CocoDataset.METAINFO["classes"]

    def test_reads_instances(self, sets):
        datasets = pytest.importorskip("mmdet.datasets", reason="mmdet is not installed")
        pipeline = [
            {"type": "LoadImageFromFile"},
            {"type": "mmdet.LoadAnnotations", "with_bbox": True, "with_mask": True},
        ]
        dataset = datasets.CocoDataset(
            data_root=str(sets["coco"]),
            ann_file="annotations/instances_train2017.json",
            data_prefix={"img": "train2017/"},
            pipeline=pipeline,
        )
        assert len(dataset) == TRAIN
        for index in range(TRAIN):
            sample = dataset[index]
            masks = sample["gt_masks"].to_ndarray()
            assert len(masks) == len(sample["gt_bboxes"]) > 3
            for mask, box in zip(masks.astype(bool), sample["gt_bboxes"].numpy(), strict=True):
                y, x = np.nonzero(mask)
                assert [x.min(), y.min(), x.max() + 1, y.max() + 1] == pytest.approx(box, abs=1)


class TestOutlines:
    def test_polygons_of_touching_corners(self):
        mask = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0]], bool)
        np.testing.assert_array_equal(decode(polygons(mask), mask.shape), mask)

    def test_no_polygon_for_a_hole(self):
        assert polygons(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)) is None

    @pytest.mark.parametrize(
        "rows, counts", [(["11", "01"], [0, 1, 1, 2]), (["00", "10"], [1, 1, 2])]
    )
    def test_run_lengths(self, rows, counts):
        mask = np.array([[pixel == "1" for pixel in row] for row in rows])
        assert run_lengths(mask)["counts"] == counts
        np.testing.assert_array_equal(decode(run_lengths(mask), mask.shape), mask)


def thin_share(mask: np.ndarray) -> float:
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((4, 4), np.uint8))
    return 1 - opened.sum() / mask.sum()


def has_hole(mask: np.ndarray) -> bool:
    _, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return bool((hierarchy[0, :, 3] >= 0).any())


def band_energies(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Relative log energy in three bands and four directions: no colour, no contrast."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey -= cv2.GaussianBlur(grey, (0, 0), 4)
    kernels = (
        cv2.getGaborKernel((9, 9), 2.5, np.deg2rad(angle), wavelength, 1, 0)
        for wavelength in (3, 5, 8)
        for angle in (0, 45, 90, 135)
    )
    energies = np.log([(cv2.filter2D(grey, -1, kernel)[mask] ** 2).mean() for kernel in kernels])
    return energies - energies.mean()


def balanced_accuracy(feature) -> tuple[float, float]:
    """Nearest class mean over the insides of objects: mean recall on val, and chance."""
    (x, y), (x_val, y_val) = (measure(feature, *part) for part in (("train", 50), ("val", 25)))
    classes = [c for c in range(len(CATEGORIES)) if min((y == c).sum(), (y_val == c).sum()) >= 10]
    means = np.array([x[y == c].mean(axis=0) for c in classes])
    distances = (((x_val[:, None] - means) / x.std(axis=0)) ** 2).sum(axis=-1)
    hits = np.array(classes)[distances.argmin(axis=1)] == y_val
    return np.mean([hits[y_val == c].mean() for c in classes]), 1 / len(classes)


def measure(feature, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and categories of all objects with at least 120 pixels off their boundary."""
    features, categories = [], []
    for scene in (render(0, split, index, SIZE) for index in range(count)):
        for number in np.unique(scene.instance):
            inside = cv2.erode((scene.instance == number).astype(np.uint8), np.ones((3, 3))) > 0
            if inside.sum() >= 120:
                features.append(feature(scene.image, inside))
                categories.append(scene.category[inside][0])
    return np.array(features), np.array(categories)


def mmseg_values(dataset_class: type, root: Path, prefix: dict[str, str]) -> set[int]:
    """Loads a split through mmseg and returns the labels in it."""
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "mmseg.LoadAnnotations"}]
    dataset = dataset_class(data_root=str(root), data_prefix=prefix, pipeline=pipeline)
    assert len(dataset) == TRAIN
    for sample in dataset:
        assert sample["img"].shape[:2] == sample["gt_seg_map"].shape == SIZE
    return {int(value) for sample in dataset for value in np.unique(sample["gt_seg_map"])}


def load(root: Path, kind: str, split: str) -> dict:
    return json.loads((root / f"annotations/{kind}_{split}2017.json").read_text())


def segment_ids(root: Path, split: str, name: str) -> np.ndarray:
    red, green, blue = np.moveaxis(
        read_png(root / f"annotations/panoptic_{split}2017/{name}").astype(int), -1, 0
    )
    return red + 256 * green + 65536 * blue


def assert_measures(entry: dict, mask: np.ndarray) -> None:
    y, x = np.nonzero(mask)
    box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
    assert entry["bbox"] == box and entry["area"] == mask.sum() >= 16 and entry["iscrowd"] == 0


def decode(segmentation: dict | list, shape: tuple[int, int]) -> np.ndarray:
    """Turns COCO's polygons or run lengths into a mask."""
    if isinstance(segmentation, dict):
        values = np.arange(len(segmentation["counts"])) % 2 == 1
        return np.repeat(values, segmentation["counts"]).reshape(shape, order="F")
    rows, columns = (np.arange(side) + 0.5 for side in shape)
    inside = np.zeros(shape, bool)
    for polygon in segmentation:
        points = np.array(polygon).reshape(-1, 2)
        for (x0, y0), (_, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            between = (rows > min(y0, y1)) & (rows < max(y0, y1))  # the edge is vertical or level
            inside ^= between[:, None] & (columns > x0)
    return inside
