"""Checks the data of a config: folders, files and labels; draws samples as a model gets them.

The exit code is 0 if everything is in order, 1 if there are problems, 2 if it cannot begin.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from _annotations import Rules, check_coco, check_instances, check_sample, is_panoptic
from _cli import CommandError, add_common, explained, folder, quiet, reason, run
from _config import IMAGES, check_data, datasets_of, find, load_config, type_name
from _samples import draw_samples, has_panopticapi, is_from

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


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    add = options.add_argument
    add("config", help="config file")
    add("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="what to check (all three)")
    add("--samples", type=int, default=10, help="samples of each dataset for the pipeline (10)")
    add("--out", type=folder, metavar="DIR", help="new or empty folder for pictures of the samples")
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
    if out and out.exists() and any(out.iterdir()):
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
        notes = _other_classes(config, dataset)
        problems += _check(name, dataset, settings[name]["pipeline"], notes, arguments)
    return problems


def _datasets(config: Any, splits: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns the settings of all datasets by name; one that two splits share appears once."""
    shared: list[tuple[dict[str, Any], list[str]]] = []
    for split in splits:
        loader = config.get(f"{split}_dataloader")
        if not loader:
            continue
        parts = list(datasets_of(loader.to_dict()["dataset"]))
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


def _other_classes(config: Any, dataset: Any) -> list[str]:
    """Returns a note for each number of classes in the model that is not the dataset's."""
    meta = {key.lower(): value for key, value in dataset.metainfo.items()}
    keys = ("classes", "thing_classes", "stuff_classes")
    counts = [len(meta[key]) for key in keys if meta.get(key)]
    others = sorted(set(find(config.model, "num_classes")) - set(counts)) if counts else []
    return [f"num_classes is {n} in the model, the dataset has {counts[0]} classes" for n in others]


def _check(
    name: str, dataset: Any, pipeline: list[Any], notes: list[str], arguments: Any
) -> list[str]:
    """Checks a dataset, prints the result and `notes` and returns the problems."""
    with quiet():
        document, infos, problems = _load(dataset)
    rules = _rules(dataset, pipeline, document)
    notes = [*notes, *_notes(dataset, document, infos)]
    labels, sound = 0, []
    for info, (read, found) in zip(infos, _run(rules, infos, arguments.workers), strict=True):
        labels += read
        if document is None:
            found += check_instances(info)
        problems += found
        sound += [] if found else [info]
    problems += _orphans(dataset, infos) if rules.label else []
    if rules.panoptic and not has_panopticapi():
        notes.append(PANOPTICAPI)
    if sound and arguments.samples:
        split = name.split(",")[0]
        problems += draw_samples(split, dataset, pipeline, sound, arguments.samples, arguments.out)
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
    if is_panoptic(document):
        parts = {part["image_id"]: part["segments_info"] for part in document["annotations"]}
        for info in infos:
            info["segment_ids"] = {part["id"] for part in parts.get(info["img_id"], ())}
    return document, infos, problems


def _rules(dataset: Any, pipeline: list[Any], document: dict[str, Any] | None) -> Rules:
    classes = dataset.metainfo.get("classes") if hasattr(dataset, "reduce_zero_label") else None
    return Rules(
        image=_decoder(pipeline, ("LoadImageFromFile",)),
        label=_label_decoder(dataset, pipeline),
        panoptic=is_panoptic(document),
        backend_args=getattr(dataset, "backend_args", None),
        classes=len(classes) if classes else None,
        ignored=getattr(dataset, "ignore_index", 255),
    )


def _label_decoder(dataset: Any, pipeline: list[Any]) -> str | None:
    """Returns a decoder for label maps; None if the pipeline loads boxes and masks alone."""
    segmentation = is_from("mmseg", dataset)
    loaders = [step for step in pipeline if type_name(step) == "LoadAnnotations"]
    loaders = [step for step in loaders if step.get("with_seg", segmentation)]
    loaders += [step for step in pipeline if type_name(step) == "LoadPanopticAnnotations"]
    return _decoder(loaders, ("LoadAnnotations", "LoadPanopticAnnotations"))


def _decoder(pipeline: list[Any], loaders: tuple[str, ...]) -> str | None:
    """Returns a decoder for what a pipeline loads: Pillow for OpenCV, which forgives cut files."""
    for step in pipeline:
        if type_name(step) in loaders:
            backend = step.get("imdecode_backend", "pillow")
            return "pillow" if backend in ("cv2", "turbojpeg") else backend
    return None


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
    if infos and is_from("mmdet", dataset):
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


if __name__ == "__main__":
    sys.exit(main())
