"""Checks the data of a config: folders, files and labels; draws samples as a model gets them.

The exit code is 0 if everything is in order, 1 if there are problems, 2 if it cannot begin.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from _cli import CommandError, add_common, explained, quiet, reason, run
from _config import IMAGES, check_data, load_config

SPLITS = ("train", "val", "test")
SHOWN = 10  # problems of a dataset that are printed
COCO = {"images", "annotations", "categories"}  # parts of an annotation file
TRAIN_IDS = "the *_labelTrainIds.png are made by mmseg's cityscapes.py, see docs/data.md"
PANOPTICAPI = (
    "panopticapi is not installed, and mmdet trains and tests on panoptic data only with it; it is "
    "not on PyPI: pip install git+https://github.com/cocodataset/panopticapi.git"
)
# images by class of the dataset (without Dataset and Panoptic) and last folder of the images
TOTALS = {
    ("Cityscapes", "train"): 2975,
    ("Cityscapes", "val"): 500,
    ("ADE20K", "training"): 20210,
    ("ADE20K", "validation"): 2000,
    ("Coco", "train2017"): 118287,
    ("Coco", "val2017"): 5000,
}


@dataclass(frozen=True)
class Rules:
    """How the files of a dataset are decoded and which values its label maps may have.

    Args:
        image: decoder of images for `mmcv.imfrombytes`; None if only their presence is checked.
        label: the same for label maps; None if the pipeline loads none.
        panoptic: whether label maps hold ids of segments as R + 256 G + 65536 B.
        backend_args: of MMEngine's file backend.
        classes: number of classes; None if label maps may have any value.
        ignored: value without a class.
    """

    image: str | None = "pillow"
    label: str | None = "pillow"
    panoptic: bool = False
    backend_args: dict[str, Any] | None = None
    classes: int | None = None
    ignored: int = 255


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    add = options.add_argument
    add("config", help="config file")
    add("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="what to check (all three)")
    add("--samples", type=int, default=10, help="samples of each dataset for the pipeline (10)")
    add("--out", type=Path, metavar="DIR", help="new or empty folder for pictures of the samples")
    add("--workers", type=int, default=1, metavar="N", help="processes that read files (1)")
    add_common(options)
    problems: list[str] = []
    code = run(lambda arguments: problems.extend(check(arguments)), options.parse_args())
    return code or int(bool(problems))


def check(arguments: argparse.Namespace) -> list[str]:
    """Checks as the command line says and prints what it finds.

    Returns:
        The problems of all datasets.

    Raises:
        CommandError: if it cannot begin.
    """
    config = load_config(arguments.config, arguments.cfg_options)
    out = arguments.out
    if out and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CommandError(f"--out must be a new or empty folder, got {out}")
    if arguments.samples < 0 or arguments.workers < 1:
        raise CommandError("--samples must be 0 or more and --workers 1 or more")
    check_data(config, *(f"{split}_dataloader" for split in arguments.splits))
    from mmengine.registry import init_default_scope

    init_default_scope(config.default_scope)
    settings = _datasets(config, arguments.splits)
    datasets = {name: _build(name, setting) for name, setting in settings.items()}
    problems = []
    for name, dataset in datasets.items():
        problems += _check(name, dataset, settings[name]["pipeline"], arguments)
    return problems


def check_sample(rules: Rules, info: dict[str, Any]) -> tuple[int, list[str]]:
    """Reads the files of one sample.

    Args:
        rules: what holds for the dataset.
        info: the sample, as the dataset's ``load_data_list`` describes it.

    Returns:
        How many label maps could be read, and the problems.
    """
    sizes, problems, labels = {}, [], 0
    if info.get("height") and info.get("width"):
        sizes["the annotation"] = (info["height"], info["width"])
    for key, kind, backend in (
        ("img_path", "image", rules.image),
        ("img_path2", "image", rules.image),
        ("seg_map_path", "label", rules.label),
    ):
        if info.get(key) is None or (kind == "label" and backend is None):
            continue
        flag = "color" if kind == "image" or rules.panoptic else "unchanged"
        try:
            pixels = _read(info[key], backend, flag, rules.backend_args)
        except ValueError as error:
            problems.append(f"{kind} {info[key]} {error}")
            continue
        labels += kind == "label"
        if pixels is not None:
            sizes[f"{kind} {info[key]}"] = pixels.shape[:2]
            problems += _check_label(pixels, info, rules) if kind == "label" else []
    if len(set(sizes.values())) > 1:
        told = (f"{what} is {height}x{width}" for what, (height, width) in sizes.items())
        problems.append(f"sizes differ: {', '.join(told)}")
    return labels, problems


def check_coco(document: dict[str, Any], classes: Iterable[str] | None) -> Iterator[str]:
    """Checks an annotation file in COCO's format, instances or panoptic.

    mmdet drops boxes that are empty or outside, and annotations of unknown images, in silence.

    Args:
        document: content of the file.
        classes: of the dataset, in order; None if it has none.

    Yields:
        The problems.
    """
    names = {category["id"]: category["name"] for category in document["categories"]}
    if classes is not None:
        known = [name for name in names.values() if name in classes]
        missing = [name for name in classes if name not in known]
        if missing:
            yield f"the categories lack {len(missing)} classes of the dataset, such as {missing[0]}"
        elif known != list(classes):
            yield "the categories stand in another order than the classes of the dataset"
    images = {image["id"]: image for image in document["images"]}
    annotated = set()
    for annotation in document["annotations"]:
        image = images.get(annotation["image_id"])
        annotated.add(annotation["image_id"])
        if image is None:
            where = f"annotation {annotation.get('id', annotation.get('file_name'))}"
            yield f"{where}: there is no image with id {annotation['image_id']}"
            continue
        for part in annotation.get("segments_info", [annotation]):
            where = f"annotation {part['id']} of {image['file_name']}"
            if part["category_id"] not in names:
                yield f"{where}: unknown category {part['category_id']}"
            x, y, width, height = part["bbox"]
            corners = (x, y, x + width, y + height)
            yield from (f"{where}: {flaw}" for flaw in _check_box(corners, image))
    if _is_panoptic(document):
        for number in images.keys() - annotated:
            yield f"image {images[number]['file_name']} has no annotation"


def _datasets(config: Any, splits: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns the settings of all datasets by name; one that two splits share appears once."""
    shared: list[tuple[dict[str, Any], list[str]]] = []
    for split in splits:
        loader = config.get(f"{split}_dataloader")
        if not loader:
            continue
        parts = list(_parts(loader.to_dict()["dataset"]))
        for index, part in enumerate(parts):
            name = f"{split}{index}" if len(parts) > 1 else split
            for other, names in shared:
                if other == part:
                    names.append(name)
                    break
            else:
                shared.append((part, [name]))
    if not shared:
        raise CommandError(f"{config.filename} has no {' or '.join(splits)} dataset")
    return {", ".join(names): part for part, names in shared}


def _parts(setting: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the datasets inside of wrappers such as ConcatDataset and RepeatDataset."""
    inner = setting.get("datasets") or [setting[key] for key in ("dataset",) if key in setting]
    for part in inner:
        yield from _parts(part)
    if not inner:
        yield setting


def _build(name: str, setting: dict[str, Any]) -> Any:
    """Builds a dataset without its pipeline and without loading it; its folders must exist."""
    from mmengine.registry import DATASETS

    with quiet(), explained(f"cannot build the {name} dataset"):
        dataset = DATASETS.build({**setting, "pipeline": [], "lazy_init": True})
    labels = _label_decoder(dataset, setting["pipeline"])
    prefixes = [path for key, path in dataset.data_prefix.items() if labels or "seg" not in key]
    paths = [dataset.ann_file, *prefixes]
    for path in paths:
        if path and "://" not in path and not Path(path).exists():
            raise CommandError(
                f"there is no {path} for the {name} dataset; "
                "point to yours with --cfg-options data_root=FOLDER"
            )
    return dataset


def _check(name: str, dataset: Any, pipeline: list[Any], arguments: Any) -> list[str]:
    """Checks a dataset, prints the result and returns the problems."""
    with quiet():
        document, infos, problems = _load(dataset)
    rules = _rules(dataset, pipeline, document)
    notes = _notes(dataset, document, infos)
    labels, sound = 0, []
    for info, (read, found) in zip(infos, _run(rules, infos, arguments.workers), strict=True):
        labels += read
        if document is None:
            found += _check_instances(info)
        problems += found
        sound += [] if found else [info]
    problems += _orphans(dataset, infos) if rules.label else []
    if rules.panoptic and not _has_panopticapi():
        notes.append(PANOPTICAPI)
    if sound and arguments.samples:
        problems += _draw(name, dataset, pipeline, sound, arguments)
    if infos and not labels and rules.label and "labelTrainIds" in dataset.seg_map_suffix:
        notes.append(TRAIN_IDS)
    objects = sum(len(info.get("instances") or ()) for info in infos)
    counts = [f"{len(infos)} images"]
    counts += [f"{labels} label maps"] if rules.label else []
    counts += [f"{objects} objects"] if objects else []
    counts += [f"{len(problems)} problems" if len(problems) != 1 else "1 problem"]
    print(f"{name}: {type(dataset).__name__}, {_images(dataset)}: {', '.join(counts)}")
    for line in (*(f"note: {note}" for note in notes), *problems[:SHOWN]):
        print(f"  {line}")
    if len(problems) > SHOWN:
        print(f"  and {len(problems) - SHOWN} more")
    return problems


def _load(dataset: Any) -> tuple[dict[str, Any] | None, list[dict[str, Any]], list[str]]:
    """Returns the annotation file if it is of COCO's kind, the samples, and the problems."""
    from mmengine.fileio import load

    document, problems = None, []
    if str(dataset.ann_file).endswith(".json"):
        try:
            document = load(dataset.ann_file, backend_args=getattr(dataset, "backend_args", None))
        except Exception as error:
            return None, [], [f"{dataset.ann_file} cannot be read: {reason(error)}"]
        if not isinstance(document, dict) or not document.keys() >= COCO:
            document = None
    try:
        if document:
            problems += check_coco(document, dataset.metainfo.get("classes"))
    except (KeyError, TypeError, ValueError) as error:
        problems.append(f"{dataset.ann_file} is not in COCO's format: {reason(error)}")
    try:
        infos = dataset.load_data_list()
    except Exception as error:
        told = f"{type(dataset).__name__} cannot load {dataset.ann_file or _images(dataset)}"
        return document, [], [*problems, f"{told}: {reason(error)}"]
    if not infos:
        problems.append(f"{_images(dataset)} has no images of the kind that the dataset reads")
    if _is_panoptic(document):
        parts = {part["image_id"]: part["segments_info"] for part in document["annotations"]}
        for info in infos:
            info["segment_ids"] = {part["id"] for part in parts.get(info["img_id"], ())}
    return document, infos, problems


def _is_panoptic(document: dict[str, Any] | None) -> bool:
    return any("segments_info" in part for part in (document or {}).get("annotations", [])[:1])


def _rules(dataset: Any, pipeline: list[Any], document: dict[str, Any] | None) -> Rules:
    classes = dataset.metainfo.get("classes") if hasattr(dataset, "reduce_zero_label") else None
    return Rules(
        image=_decoder(pipeline, ("LoadImageFromFile",)),
        label=_label_decoder(dataset, pipeline),
        panoptic=_is_panoptic(document),
        backend_args=getattr(dataset, "backend_args", None),
        classes=len(classes) if classes else None,
        ignored=getattr(dataset, "ignore_index", 255),
    )


def _label_decoder(dataset: Any, pipeline: list[Any]) -> str | None:
    """Returns a decoder for label maps; None if the pipeline loads boxes and masks alone."""
    segmentation = _is_from("mmseg", dataset)
    loaders = [step for step in pipeline if _type(step) == "LoadAnnotations"]
    loaders = [step for step in loaders if step.get("with_seg", segmentation)]
    loaders += [step for step in pipeline if _type(step) == "LoadPanopticAnnotations"]
    return _decoder(loaders, ("LoadAnnotations", "LoadPanopticAnnotations"))


def _decoder(pipeline: list[Any], loaders: tuple[str, ...]) -> str | None:
    """Returns a decoder for what a pipeline loads: Pillow for OpenCV, which forgives cut files."""
    for step in pipeline:
        if _type(step) in loaders:
            backend = step.get("imdecode_backend", "pillow")
            return "pillow" if backend in ("cv2", "turbojpeg") else backend
    return None


def _is_from(library: str, dataset: Any) -> bool:
    """Says whether a library defines the class of a dataset or a base of it."""
    return any(base.__module__.startswith(f"{library}.") for base in type(dataset).__mro__)


def _type(step: dict[str, Any]) -> str:
    """Returns the name of a step of a pipeline without its scope."""
    return getattr(step["type"], "__name__", str(step["type"])).rsplit(".", 1)[-1]


def _run(rules: Rules, infos: list[dict[str, Any]], workers: int) -> Iterator[tuple[int, list]]:
    """Checks the files of all samples in order, with a progress bar on a terminal."""
    from mmengine.utils import ProgressBar

    bar = ProgressBar(len(infos), file=sys.stderr) if infos and sys.stderr.isatty() else None
    keys = ("img_path", "img_path2", "seg_map_path", "img_id", "height", "width")
    keys += ("reduce_zero_label", "label_map", "segment_ids")
    tasks = ({key: info[key] for key in keys if key in info} for info in infos)
    function = partial(check_sample, rules)
    spawn = get_context("spawn")  # a fork may hang where threads run
    with spawn.Pool(workers) if workers > 1 else nullcontext() as pool:
        results = pool.imap(function, tasks, chunksize=16) if pool else map(function, tasks)
        for result in results:
            yield result
            if bar:
                bar.update()
    if bar:
        sys.stderr.write("\n")


def _read(path: str, backend: str | None, flag: str, args: dict | None) -> np.ndarray | None:
    """Decodes a file; raises ValueError, in words that follow its name, if that cannot be done."""
    import mmcv
    from mmengine import fileio
    from PIL import UnidentifiedImageError

    try:
        if backend is None:
            if not fileio.exists(path, backend_args=args):
                raise FileNotFoundError
            return None
        content = fileio.get(path, backend_args=args)
        pixels = mmcv.imfrombytes(content, flag, "rgb", backend=backend)
    except FileNotFoundError:
        raise ValueError("is missing") from None
    except UnidentifiedImageError:
        raise ValueError("is not an image") from None
    except Exception as error:
        raise ValueError(f"cannot be read: {reason(error)}") from error
    return pixels


def _check_label(label: np.ndarray, info: dict[str, Any], rules: Rules) -> Iterator[str]:
    """Yields what is wrong with the values of a label map."""
    what = f"label {info['seg_map_path']}"
    if rules.panoptic:
        found = set(np.unique(label.astype(np.int32) @ (1, 256, 65536)).tolist()) - {0}
        noted = info["segment_ids"]
        if found - noted:
            yield f"{what} has segments without annotation: {_some(found - noted)}"
        if noted - found:
            yield f"{what} lacks annotated segments: {_some(noted - found)}"
    elif label.ndim != 2:
        yield f"{what} has {label.shape[2]} channels, it must have one"
    elif rules.classes is not None:
        values = np.unique(label).astype(np.int64)
        reduce, renamed = info.get("reduce_zero_label"), info.get("label_map") or {}
        seen = np.where((values == 0) | (values == 255), 255, values - 1) if reduce else values
        seen = np.array([renamed.get(value, value) for value in seen.tolist()])
        wrong = values[(seen < 0) | (seen >= rules.classes) & (seen != rules.ignored)]
        if len(wrong):
            void = f"0 and {rules.ignored} are" if reduce else f"{rules.ignored} is"
            first = int(bool(reduce))
            last = (max(renamed) if renamed else rules.classes - 1) + first
            told = f"classes are {first} to {last}, {void} void"
            yield f"{what} has the values {_some(wrong.tolist())}; {told}"


def _some(values: Iterable[int], most: int = 5) -> str:
    """Lists a few numbers."""
    values = sorted(values)
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")


def _check_box(corners: Iterable[float], image: dict[str, Any]) -> Iterator[str]:
    """Yields what is wrong with a box, x1 y1 x2 y2 in pixels; a pixel outside is rounding."""
    left, top, right, bottom = corners
    told = f"box {tuple(corners)}"
    if not (right > left and bottom > top):
        yield f"{told} is empty"
    height, width = image.get("height", np.inf), image.get("width", np.inf)
    if left < -1 or top < -1 or right > width + 1 or bottom > height + 1:
        yield f"{told} is outside of the image, {height}x{width}"


def _check_instances(info: dict[str, Any]) -> list[str]:
    """Checks the boxes of a sample whose annotation is of no known format."""
    boxes = (part["bbox"] for part in info.get("instances") or () if len(part.get("bbox", ())) == 4)
    return [f"{info.get('img_path')}: {flaw}" for box in boxes for flaw in _check_box(box, info)]


def _images(dataset: Any) -> str:
    """Returns the folder of the images."""
    prefix = dataset.data_prefix
    return prefix.get("img_path") or prefix.get("img") or dataset.data_root


def _notes(dataset: Any, document: Any, infos: list[dict[str, Any]]) -> list[str]:
    """Returns what differs from the expected and is not wrong."""
    notes = []
    kind = type(dataset).__name__.removesuffix("Dataset").removesuffix("Panoptic")
    total = TOTALS.get((kind, Path(_images(dataset)).name))
    if total not in (None, len(infos)):
        notes.append(f"the full set has {total} images")
    if infos and _is_from("mmdet", dataset):
        dataset.data_list = infos
        left = len(infos) - len(dataset.filter_data())
        notes += [f"the dataset leaves out {left} images by its filter_cfg"] if left else []
    if document and infos:
        listed = {Path(info["img_path"]) for info in infos}
        extra = [path for path in _files(_images(dataset), IMAGES) if path not in listed]
        told = f"{len(extra)} images are not in {dataset.ann_file}, such as "
        notes += [told + str(extra[0])] if extra else []
    return notes


def _orphans(dataset: Any, infos: list[dict[str, Any]]) -> list[str]:
    """Finds label maps without an image; a dataset that lists its files may leave some out."""
    folder = dataset.data_prefix.get("seg_map_path")
    if not folder or dataset.ann_file or not hasattr(dataset, "seg_map_suffix"):
        return []
    known = {Path(info["seg_map_path"]) for info in infos}
    labels = _files(folder, dataset.seg_map_suffix)
    return [f"label {path} has no image" for path in labels if path not in known]


def _files(folder: str, suffix: str | tuple[str, ...]) -> list[Path]:
    from mmengine.fileio import list_dir_or_file

    names = list_dir_or_file(folder, list_dir=False, suffix=suffix, recursive=True)
    return sorted(Path(folder, name) for name in names)


def _has_panopticapi() -> bool:
    return importlib.util.find_spec("panopticapi") is not None


def _draw(
    name: str, dataset: Any, pipeline: list[Any], infos: list[dict[str, Any]], arguments: Any
) -> list[str]:
    """Sends samples through the pipeline, draws them if there is a folder, returns problems."""
    from mmengine.dataset import Compose

    problems = []
    split = name.split(",")[0]
    np.random.seed(0)
    try:
        with quiet():
            transform = Compose(_steps(pipeline))
            save = _drawer(dataset) if arguments.out else None
    except Exception as error:
        return [f"the pipeline cannot be built: {reason(error)}"]
    count = min(arguments.samples, len(infos))
    for index in np.linspace(0, len(infos) - 1, count).astype(int).tolist():
        info = infos[index]
        try:
            with quiet():
                result = transform(_sample(dataset, info, index))
                if save and result is not None:
                    arguments.out.mkdir(parents=True, exist_ok=True)
                    file = arguments.out / f"{split}_{index:06d}_{Path(info['img_path']).stem}.png"
                    save(result, file)
        except Exception as error:
            problems.append(f"the pipeline fails on {info['img_path']}: {reason(error)}")
    return problems


def _sample(dataset: Any, info: dict[str, Any], index: int) -> dict[str, Any]:
    """Returns what a dataset gives to its pipeline."""
    dataset.data_list, dataset.serialize_data, dataset._fully_initialized = [info], False, True
    return {**dataset.get_data_info(0), "sample_idx": index}


def _steps(pipeline: list[Any]) -> list[Any]:
    """Returns a pipeline that loads before it transforms, so that labels follow the image.

    Pipelines for evaluation load labels last, at the size of the file.
    """
    steps = [copy.deepcopy(step) for step in pipeline]
    loaders = [step for step in steps if _type(step).startswith("Load")]
    others = [step for step in steps if not _type(step).startswith("Load")]
    panoptic = [step for step in loaders if _type(step) == "LoadPanopticAnnotations"]
    if panoptic and not _has_panopticapi():
        loaders = [step for step in loaders if step not in panoptic]
        loaders += [dict(type="mmdet.LoadAnnotations"), _load_segments]
    return [*loaders, *others]


def _load_segments(info: dict[str, Any]) -> dict[str, Any]:
    """Loads a panoptic label map as classes, as mmdet does with panopticapi."""
    label = _read(info["seg_map_path"], "pillow", "color", None)
    ids = label.astype(np.int32) @ (1, 256, 65536)
    info["gt_seg_map"] = np.full(ids.shape, 255, np.uint8)
    for segment in info["segments_info"]:
        info["gt_seg_map"][ids == segment["id"]] = segment["category"]
    return info


def _drawer(dataset: Any) -> Callable[[dict[str, Any], Path], None]:
    """Returns a function that saves a packed sample as a picture."""
    if _is_from("mmseg", dataset):
        from mmseg.visualization import SegLocalVisualizer

        visualizer, options = SegLocalVisualizer(alpha=0.5), {"with_labels": False}
    else:
        from mmdet.visualization import DetLocalVisualizer

        visualizer, options = DetLocalVisualizer(alpha=0.5), {}
    visualizer.dataset_meta = dataset.metainfo

    def save(result: dict[str, Any], path: Path) -> None:
        pixels = result["inputs"].flip(0).permute(1, 2, 0).numpy()
        pixels = np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8))
        sample = result["data_samples"]
        boxes = sample.get("gt_instances")
        if boxes is not None and hasattr(boxes.get("bboxes"), "tensor"):
            boxes.bboxes = boxes.bboxes.tensor
        visualizer.add_datasample(
            path.stem, pixels, sample, draw_pred=False, out_file=str(path), **options
        )

    return save


if __name__ == "__main__":
    sys.exit(main())
