"""Every config: its model is built without weights, trains a step, and predicts."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="configs are OpenMMLab's")
ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "mm_configs"
PATHS = sorted(CONFIGS.glob("*/*.py"))
sys.path.insert(0, str(ROOT / "tools"))


def library_of(path):
    is_detector = path.parent.name == "coco" or path.name.startswith("faster-rcnn")
    return "mmdet" if is_detector else "mmseg"


def needs(path):
    """What a config needs: compiled operators for a detector and for Mask2Former."""
    compiled = library_of(path) == "mmdet" or "mask2former" in path.name
    modules = [library_of(path), *(["mmdet", "mmcv._ext"] if compiled else [])]
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=needs(p), id=f"{p.parent.name}/{p.stem}") for p in PATHS]
)
def test_config(path):
    from check_configs import check_config

    assert "loss" in check_config(str(path), (64, 64))


def test_there_are_configs_for_every_data_set():
    counts = {
        folder.name: len(list(folder.glob("*.py")))
        for folder in CONFIGS.iterdir()
        if folder.is_dir()
    }
    assert counts["ade20k"] >= 19 and counts["cityscapes"] >= 14 and counts["coco"] >= 15
    assert sum(counts.values()) - counts["scenes"] >= 40


@pytest.mark.parametrize(
    "path", [p for p in PATHS if p.parent.name != "scenes"], ids=lambda p: p.stem
)
def test_configs_are_short_and_standard(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 30
    assert any(line.startswith('_base_ = "mm') for line in lines)
    assert any("freqfusion.integrations.openmmlab" in line for line in lines)
    assert "freqfusion" in path.stem


def test_the_command_says_which_config_fails(tmp_path, capsys, monkeypatch):
    if importlib.util.find_spec("mmseg") is None:
        pytest.skip("needs mmseg")
    import check_configs

    base = CONFIGS / "scenes" / "fpn_r18_1xb4-800_scenes-128x256.py"
    broken = tmp_path / "broken.py"
    broken.write_text(f"_base_ = '{base}'\nmodel = dict(neck=dict(type='NoSuchNeck'))\n")
    monkeypatch.setattr(sys, "argv", ["check_configs.py", str(base), str(broken)])
    assert check_configs.main() == 2
    out, err = capsys.readouterr()
    assert "loss" in out.splitlines()[0]
    assert "FAILED" in out and "NoSuchNeck" in out
    assert "1 of 2 configs failed" in err


HEADS = {
    "fpn_r18_1xb4-800_scenes-128x256.py": "decode_head=dict({})",
    "faster-rcnn_r18_fpn_1xb2-500_scenes-128x256.py": "roi_head=dict(bbox_head=dict({}))",
}


@pytest.mark.parametrize("classes", ["num_classes=3", "num_classes=1"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=needs(CONFIGS / "scenes" / n)) for n in HEADS]
)
def test_models_of_few_classes(name, classes, tmp_path):
    from check_configs import check_config

    path = tmp_path / name
    base, head = CONFIGS / "scenes" / name, HEADS[name].format(classes)
    path.write_text(f"_base_ = '{base}'\nmodel = dict({head})\n")
    assert "loss" in check_config(str(path), (64, 64))


def test_readme_has_every_config_of_real_data():
    text = (CONFIGS / "README.md").read_text()
    names = [path for path in CONFIGS.glob("*/*.py") if path.parent.name != "scenes"]
    assert len(names) >= 40
    missing = [path.stem for path in names if f"]({path.parent.name}/{path.name})" not in text]
    assert not missing  # tools/config_table.py writes the tables
