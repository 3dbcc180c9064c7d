"""tools/compare.py: a real comparison in a tiny setting, its figures, and the configs for it."""

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("mmengine", "mmcv"):
    pytest.importorskip(package, reason=f"{package} is not installed")

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "tools"
CONFIGS = ROOT / "mm_configs" / "scenes"
sys.path.insert(0, str(TOOLS))

import _models  # noqa: E402
import _runs  # noqa: E402
import compare  # noqa: E402
from _cli import CommandError  # noqa: E402
from _config import load_config  # noqa: E402
from mmengine.config import Config  # noqa: E402

METHODS = {
    "nearest": "Nearest",
    "bilinear": "Bilinear",
    "carafe": "CARAFE",
    "dysample": "DySample",
    "sapa": "SAPA",
    "fade": "FADE",
}
MMSEG = pytest.mark.skipif(importlib.util.find_spec("mmseg") is None, reason="mmseg not installed")
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
STEPS = 3


def config(method):
    return CONFIGS / f"fpn-{method}_r18_1xb4-800_scenes-128x256.py"


def run_of(path, folder, *options):
    return _runs.Run(str(path), 0, folder, options)


def call(*arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def read(folder):
    with open(folder / "comparison.csv") as file:
        return list(csv.DictReader(file)), (folder / "comparison.md").read_text()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    size = "--train", 8, "--val", 2, "--size", "64x128"
    call(TOOLS / "make_scenes.py", folder, "--format", "cityscapes", *size)
    return folder


@pytest.fixture(scope="module")
def comparison(scenes, tmp_path_factory):
    """A finished comparison: its command line, its folder and what it printed."""
    folder = tmp_path_factory.mktemp("compare")
    arguments = [TOOLS / "compare.py", config("nearest"), config("carafe")]
    arguments += ["--work-dir", folder, "--cfg-options", f"data_root={scenes}"]
    arguments += [f"train_cfg.max_iters={STEPS}", f"train_cfg.val_interval={STEPS}"]
    arguments += ["default_hooks.logger.interval=1", "log_processor.window_size=1"]
    arguments += ["default_hooks.logger.log_metric_by_epoch=True"]  # mmdet's default
    arguments += ["model.backbone.base_channels=16", "model.neck.in_channels=[16,32,64,128]"]
    return arguments, folder, call(*arguments)


@MMSEG
class TestComparison:
    def test_figures(self, comparison):
        _, folder, output = comparison
        rows, table = read(folder)
        assert table in output
        assert [row["config"] for row in rows] == [
            config(name).stem for name in ("nearest", "carafe")
        ]
        for row in rows:
            (log,) = (folder / row["config"] / "seed0").glob("*/vis_data/scalars.json")
            records = [json.loads(line) for line in log.read_text().splitlines()]
            times = sorted(record["time"] for record in records if "loss" in record)
            assert float(row["s/iter"]) == times[STEPS // 2]
            assert float(row["mIoU"]) == records[-1]["mIoU"]
        plain, carafe = (float(row["GFLOPs"]) * 1e9 for row in rows)
        # multiply-adds of coarse and fine pixels of three fusions at 128x256
        coarse, fine = (sum(32 * 64 // 4**i for i in levels) for levels in ((1, 2, 3), (0, 1, 2)))
        expected = 2 * (coarse * (64 * 64 + 64 * 9 * 100) + fine * 25 * 64)
        assert carafe - plain == pytest.approx(expected, abs=1)
        assert f"{plain / 1e9:.3f}" in table

    @LINUX
    def test_peak_memory_of_the_training(self, comparison):
        _, folder, _ = comparison
        rows, table = read(folder)
        for row in rows:
            note = json.loads((folder / row["config"] / "seed0" / "peak_memory.json").read_text())
            assert float(row["memory/MiB"]) == note["MiB"]
            assert 100 < note["MiB"] < 20_000
            assert f"| {note['MiB']:.0f} " in table

    def test_again_and_with_runs_of_older_versions(self, comparison):
        arguments, folder, _ = comparison
        before = read(folder)
        output = call(*arguments)
        assert output.count("done before") == 2
        assert read(folder) == before
        note = folder / config("nearest").stem / "seed0" / "peak_memory.json"
        kept = note.read_text() if note.exists() else None
        note.unlink(missing_ok=True)
        output = call(*arguments)
        assert output.count("done before") == 2
        (plain, carafe), table = read(folder)
        assert plain["memory/MiB"] == ""
        assert carafe == before[0][1]
        assert re.search(rf"{config('nearest').stem} .*\| - +\|", table)
        if kept:
            note.write_text(kept)


class TestMemory:
    @LINUX
    def test_is_the_highest_so_far(self, tmp_path):
        assert _runs._noted_memory(tmp_path) is None
        _runs._note_memory(tmp_path, os.getpid())
        noted = _runs._noted_memory(tmp_path)
        own = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
        assert 50 < noted == pytest.approx(int(own[1]) / 1024, rel=0.05)
        for earlier, expected in ((2 * noted, 2 * noted), (1.0, noted)):
            (tmp_path / "peak_memory.json").write_text(json.dumps({"MiB": earlier}))
            _runs._note_memory(tmp_path, os.getpid())
            assert _runs._noted_memory(tmp_path) == pytest.approx(expected, rel=0.05)

    @LINUX
    def test_is_not_that_of_the_process_that_started_it(self, tmp_path):
        code = "print(end='', flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, text=True
        ) as child:
            while b"-I" not in Path(f"/proc/{child.pid}/cmdline").read_bytes():
                pass
            _runs._note_memory(tmp_path, child.pid)
            child.communicate("\n")
        assert 0 < _runs._noted_memory(tmp_path) < 50

    def test_of_a_process_that_is_gone(self, tmp_path):
        with subprocess.Popen([sys.executable, "-c", ""]) as child:
            child.wait()
        _runs._note_memory(tmp_path, child.pid)
        assert _runs._noted_memory(tmp_path) is None

    def test_a_note_that_was_cut_off(self, tmp_path):
        (tmp_path / "peak_memory.json").write_text('{"Mi')
        assert _runs._noted_memory(tmp_path) is None


@MMSEG
class TestResults:
    """What is read from logs, of this version, of older ones, of GPUs."""

    @staticmethod
    def results(scenes, folder, *records, metrics=("mIoU",)):
        log = folder / "20250101_000000" / "vis_data" / "scalars.json"
        log.parent.mkdir(parents=True)
        log.write_text("".join(json.dumps(record) + "\n" for record in records))
        run = run_of(config("fade"), folder, f"data_root={scenes}", "train_cfg.max_iters=3")
        return _runs.results(run, metrics and list(metrics))

    def test_gpu(self, scenes, tmp_path):
        (tmp_path / "peak_memory.json").write_text('{"MiB": 7000.0}')
        steps = [
            {"loss": 1.0, "time": t, "memory": m, "step": i + 1}
            for i, (t, m) in enumerate([(9.0, 300), (0.5, 400), (0.25, 350)])
        ]
        found = self.results(scenes, tmp_path, *steps, {"mIoU": 40.0, "step": 3})
        assert found == {"mIoU": 40.0, "s/iter": 0.5, "memory/MiB": 400}

    def test_cpu(self, scenes, tmp_path):
        (tmp_path / "peak_memory.json").write_text('{"MiB": 700.5}')
        steps = {"loss": 1.0, "time": 0.5, "step": 1}, {"mIoU": 40.0, "step": 3}
        assert self.results(scenes, tmp_path, *steps)["memory/MiB"] == 700.5

    def test_nothing_but_metrics(self, scenes, tmp_path):
        steps = {"loss": 1.0, "step": 1}, {"mIoU": 40.0, "step": 3}
        found = self.results(scenes, tmp_path, *steps)
        assert found == {"mIoU": 40.0, "s/iter": None, "memory/MiB": None}

    def test_metrics_that_are_measured(self, scenes, tmp_path, capsys):
        record = {"coco_panoptic/PQ": 30.0, "mIoU": 40.0, "aAcc": 80.0, "step": 3}
        found = self.results(scenes, tmp_path, record, metrics=None)
        assert list(found)[:2] == ["mIoU", "coco_panoptic/PQ"]
        run = run_of(config("fade"), tmp_path, f"data_root={scenes}", "train_cfg.max_iters=3")
        assert _runs.results(run, ["mIoU", "mIou"])["mIou"] is None
        assert "does not measure mIou, only coco_panoptic/PQ, mIoU, aAcc" in capsys.readouterr().err

    def test_unfinished(self, scenes, tmp_path):
        steps = {"loss": 1.0, "time": 0.5, "step": 1}, {"mIoU": 40.0, "step": 2}
        assert self.results(scenes, tmp_path, *steps) is None


@MMSEG
class TestBeforeTheTraining:
    """What cannot be compared is told before hours of work, and nothing of others is lost."""

    @staticmethod
    def check(*runs, table=Path("nowhere"), layer=None):
        compare._check(list(runs), table, layer)

    def test_two_configs_of_one_name(self, scenes, tmp_path):
        (tmp_path / "other").mkdir()
        other = tmp_path / "other" / config("fade").name
        other.write_text(f"_base_ = '{config('sapa')}'\n")
        runs = [
            run_of(path, tmp_path / "x", f"data_root={scenes}") for path in (config("fade"), other)
        ]
        with pytest.raises(CommandError, match="have the same name"):
            self.check(*runs)

    def test_the_table_of_other_runs(self, scenes, tmp_path):
        table = tmp_path / "comparison.csv"
        table.write_text(f"config,seed,mIoU\n{config('fade').stem},0,1\nmine,3,1\n")
        run = run_of(config("fade"), tmp_path / "x", f"data_root={scenes}")
        with pytest.raises(CommandError, match="other runs too, such as mine with seed 3"):
            self.check(run, table=table)
        table.write_text(f"config,seed,mIoU\n{config('fade').stem},0,1\n")
        self.check(run, table=table)

    @pytest.mark.parametrize(
        "layer, message", [("nekc[0]", "mean 'neck'"), ("neck[7]", r"'neck\[7\]' does not exist")]
    )
    def test_a_layer_that_does_not_exist(self, layer, message, scenes, tmp_path):
        run = run_of(config("fade"), tmp_path / "x", f"data_root={scenes}")
        with pytest.raises(CommandError, match=message):
            self.check(run, layer=layer)
        self.check(run, layer="neck[0]")

    def test_a_start_that_failed_leaves_the_folder_free(self, scenes, tmp_path):
        for option in ("model.neck.out_chanels=3", "model.neck.out_channels=32"):
            self.check(run_of(config("fade"), tmp_path / "x", f"data_root={scenes}", option))
        (tmp_path / "x" / "iter_1.pth").touch()
        with pytest.raises(CommandError, match="other settings; choose another --work-dir"):
            self.check(run_of(config("fade"), tmp_path / "x", f"data_root={scenes}"))

    def test_every_config_takes_a_seed(self, scenes, tmp_path):
        path = CONFIGS.parent / "cityscapes" / "fpn-freqfusion_r50_4xb2-80k_cityscapes-512x1024.py"
        assert run_of(path, tmp_path, f"data_root={scenes}").check().randomness.seed == 0


class TestTable:
    ROW = {"config": "a", "seed": 0, "mIoU": 40.0, "s/iter": 0.5, "memory/MiB": 700.4}
    SIZE = {"GFLOPs": 1.2346, "parameters": 3_250_000}

    def rows(self, *figures):
        return [{**self.ROW, **figure, **self.SIZE} for figure in figures]

    def cells(self, rows):
        heads, _, *lines = compare._table(rows).splitlines()
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in (heads, *lines)]

    def test_one_seed(self):
        heads, line = self.cells(self.rows({}))
        assert heads == ["config", "mIoU", "s/iter", "memory/MiB", "GFLOPs", "parameters"]
        assert line == ["a", "40.00", "0.500", "700", "1.235", "3.25 M"]

    def test_mean_and_spread_over_seeds(self):
        rows = self.rows({}, {"mIoU": 42.0, "s/iter": 0.25, "memory/MiB": 710.4, "seed": 1})
        _, line = self.cells(rows)
        assert line == ["a", "41.00 ± 1.41", "0.375 ± 0.177", "705 ± 7", "1.235", "3.25 M"]

    def test_missing_figures(self):
        none = {"s/iter": None, "memory/MiB": None}
        rows = self.rows(none, {**none, "memory/MiB": 700.0, "seed": 1})
        rows = [{**row, "GFLOPs": None} for row in rows]
        _, line = self.cells(rows)
        assert line == ["a", "40.00 ± 0.00", "-", "700", "-", "3.25 M"]


@MMSEG
class TestSize:
    def test_uncountable_flops_are_left_out(self, scenes, tmp_path, monkeypatch, capsys):
        def fail(*_):
            raise RuntimeError("no such forward pass")

        run = run_of(config("nearest"), tmp_path, f"data_root={scenes}")
        known = compare._size(run)
        assert known["GFLOPs"] > 1
        monkeypatch.setattr(_models, "cost", fail)
        assert compare._size(run) == {"GFLOPs": None, "parameters": known["parameters"]}
        assert (
            "FLOPs are not counted, RuntimeError: no such forward pass" in capsys.readouterr().err
        )

    def test_leaves_the_random_state_alone(self, scenes, tmp_path):
        import torch

        before = torch.get_rng_state()
        compare._size(run_of(config("nearest"), tmp_path, f"data_root={scenes}"))
        assert torch.equal(torch.get_rng_state(), before)

    def test_input_size(self):
        def resized(**step):
            pipeline = [{"type": "LoadImageFromFile"}, {"type": "Resize", **step}]
            loader = {"dataset": {"pipeline": pipeline}}
            return {"model": {"data_preprocessor": {}}, "val_dataloader": loader}

        crop = {"model": {"data_preprocessor": {"size": [64, 96]}}}
        assert compare.input_size(Config(crop)) == (64, 96)
        assert compare.input_size(Config({"model": {}, "crop_size": (32, 48)})) == (32, 48)
        assert compare.input_size(Config(resized(scale=(1333, 800)))) == (800, 1333)
        with pytest.raises(ValueError, match="neither a crop size nor a Resize with a scale"):
            compare.input_size(Config(resized(scale_factor=2)))


@MMSEG
class TestConfigs:
    @pytest.mark.parametrize("method", METHODS)
    def test_differ_from_freqfusions_in_the_fusion_alone(self, method):
        ours = Config.fromfile(config(method)).to_dict()
        assert ours["model"]["neck"].pop("fusion") == {"type": METHODS[method]}
        assert ours == Config.fromfile(config("freqfusion")).to_dict()

    @pytest.mark.parametrize("method", METHODS)
    def test_model_has_the_fusions(self, method):
        model = _models.build(load_config(str(config(method)), []))
        assert [type(m).__name__ for m in model.neck.alignment] == [METHODS[method]] * 3
