"""Real, tiny trainings through the tools: both libraries, resuming, AMP, DDP, errors."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

for package in ("mmengine", "mmcv"):
    pytest.importorskip(package, reason=f"{package} is not installed")

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "tools"
sys.path.insert(0, str(TOOLS))

import train  # noqa: E402
from _cli import CommandError  # noqa: E402
from _config import check_checkpoint, check_data, load_config  # noqa: E402
from _models import build  # noqa: E402
from mmengine.config import Config  # noqa: E402

CONFIGS = ROOT / "mm_configs" / "scenes"
PLAIN = CONFIGS / "fpn_r18_1xb4-800_scenes-128x256.py"
FUSED = CONFIGS / "fpn-freqfusion_r18_1xb4-800_scenes-128x256.py"
DETECTOR = CONFIGS / "faster-rcnn_r18_fpn-freqfusion_1xb2-500_scenes-128x256.py"
TINY = ["model.backbone.base_channels=16", "model.neck.in_channels=[16,32,64,128]"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "GOMP_SPINCOUNT": "100",
}


def needs(*modules):
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")


def command(tool, *arguments):
    return [sys.executable, str(TOOLS / tool), *map(str, arguments)]


def call(tool, *arguments, code=0, cwd=None):
    """Runs a tool to its end, checks its exit code and returns the finished process."""
    done = subprocess.run(
        command(tool, *arguments),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def schedule(steps, interval=None):
    """Overrides for a short training that validates at its end and logs every step."""
    return [
        f"train_cfg.max_iters={steps}",
        f"train_cfg.val_interval={steps}",
        f"default_hooks.checkpoint.interval={interval or steps}",
        "default_hooks.logger.interval=1",
        "log_processor.window_size=1",
    ]


def records(work_dir, run=-1):
    """What the runner logged in a work dir, in its latest run."""
    log = sorted(work_dir.glob("*/vis_data/scalars.json"))[run]
    return [json.loads(line) for line in log.read_text().splitlines()]


def losses(work_dir):
    return [record["loss"] for record in records(work_dir) if "loss" in record]


def assert_falls(values, steps):
    assert len(values) == steps
    assert torch.tensor(values).isfinite().all()
    assert sum(values[-5:]) < sum(values[:5]), values


def scenes(folder, layout, size):
    call("make_scenes.py", folder, "--format", layout, "--train", 8, "--val", 2, "--size", size)
    return folder


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory):
    return scenes(tmp_path_factory.mktemp("data") / "cityscapes", "cityscapes", "64x128")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished demo in a tiny setting: its arguments and its folder."""
    folder = tmp_path_factory.mktemp("demo")
    arguments = ["--work-dir", folder, "--train", 8, "--val", 2, "--cfg-options", *schedule(20)]
    arguments += TINY
    done = call("demo.py", *arguments)
    return arguments, folder, done.stdout


@needs("mmseg")
class TestDemo:
    @pytest.mark.parametrize("config", [PLAIN, FUSED], ids=lambda path: path.stem)
    def test_each_twin_trains_and_is_evaluated(self, demo, config):
        _, folder, _ = demo
        run = folder / config.stem / "seed0"
        assert_falls(losses(run), 20)
        evaluation = records(run)[-1]
        assert evaluation["step"] == 20
        assert 0 < evaluation["mIoU"] < 100
        assert 0 < evaluation["boundary/mIoU"] < 100

    def test_table(self, demo):
        _, folder, output = demo
        table = (folder / "comparison.md").read_text()
        assert table in output
        with open(folder / "comparison.csv") as file:
            plain, fused = csv.DictReader(file)
        assert [plain["config"], fused["config"]] == [PLAIN.stem, FUSED.stem]
        assert 0 < int(fused["parameters"]) - int(plain["parameters"]) < 100_000
        for row in (plain, fused):
            final = records(folder / row["config"] / "seed0")[-1]
            assert float(row["mIoU"]) == final["mIoU"]
            assert float(row["boundary/mIoU"]) == final["boundary/mIoU"]
            assert float(row["s/iter"]) > 0
            assert f"{final['mIoU']:.2f}" in table

    def test_picture_and_progress(self, demo):
        from PIL import Image

        _, folder, output = demo
        with Image.open(folder / "predictions.png") as picture:
            assert picture.width > picture.height > 200
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 100
        assert output.count("train") >= 40  # a line for every logged iteration
        assert "done in" in output
        assert len(output.splitlines()) < 100

    def test_finished_runs_are_used_again(self, demo):
        arguments, folder, _ = demo
        before = sorted(path.name for path in (folder / FUSED.stem / "seed0").iterdir())
        output = call("demo.py", *arguments).stdout
        assert output.count("done before") == 2
        assert sorted(path.name for path in (folder / FUSED.stem / "seed0").iterdir()) == before

    def test_results_of_other_settings_are_not_mixed_in(self, demo):
        arguments, folder, _ = demo
        done = call("demo.py", *arguments, "optim_wrapper.optimizer.lr=0.1", code=2)
        assert "with other settings; choose another --work-dir" in done.stderr


class TestOtherScripts:
    """Training scripts that know nothing of this package: `custom_imports` is enough."""

    def train(self, library, config, folder, *options):
        script = Path(importlib.util.find_spec(library).origin).parent / ".mim" / "tools"
        arguments = [config, "--work-dir", folder, "--cfg-options", *schedule(4), *options]
        done = subprocess.run(
            [sys.executable, *map(str, [script / "train.py", *arguments])],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(losses(folder)) == 4

    @needs("mmdet", "mmcv._ext")
    def test_mmdetections(self, tmp_path):
        data = scenes(tmp_path / "coco", "coco", "64x128")
        root = [f"{part}_dataloader.dataset.data_root={data}" for part in ("train", "val", "test")]
        root += [f"val_evaluator.ann_file={data}/annotations/instances_val2017.json"]
        self.train("mmdet", DETECTOR, tmp_path / "run", *root)

    @needs("mmseg")
    def test_mmsegmentations(self, cityscapes, tmp_path):
        """With a config in one file, as every run leaves it in its folder."""
        options = [f"data_root={cityscapes}", *schedule(1), *TINY]
        call("train.py", FUSED, "--work-dir", tmp_path / "ours", "--cfg-options", *options)
        self.train("mmseg", tmp_path / "ours" / FUSED.name, tmp_path / "run")


@needs("mmseg")
class TestInterrupted:
    def test_killed_training_resumes_to_the_same_iteration(self, cityscapes, tmp_path):
        steps = 40
        arguments = [FUSED, "--work-dir", tmp_path]
        options = ["--cfg-options", f"data_root={cityscapes}", *TINY, *schedule(steps, interval=10)]
        with subprocess.Popen(
            command("train.py", *arguments, *options),
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            deadline = time.monotonic() + 120
            while not (tmp_path / "last_checkpoint").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / f"iter_{steps}.pth").exists()

        done = call("train.py", *arguments, *options, code=2)
        assert "already holds checkpoints" in done.stderr

        call("train.py", *arguments, "--resume", *options)
        trained = [record["step"] for record in records(tmp_path) if "loss" in record]
        assert trained[0] % 10 == 1 and trained[0] > 10
        assert trained == list(range(trained[0], steps + 1))
        assert (tmp_path / "last_checkpoint").read_text().endswith(f"iter_{steps}.pth")

        # nothing is left to train: only the evaluation is repeated
        evaluation = records(tmp_path)[-1]
        call("train.py", *arguments, "--resume", *options)
        (again,) = records(tmp_path)
        assert again["step"] == steps
        assert again["mIoU"] == evaluation["mIoU"]

        done = call("test.py", FUSED, tmp_path / f"iter_{steps}.pth", *arguments[1:], *options)
        assert f"mIoU: {evaluation['mIoU']:.4f}" in done.stdout


@needs("mmseg")
class TestMixedPrecision:
    def test_amp_trains_in_bfloat16_on_a_cpu(self, cityscapes, tmp_path):
        options = [f"data_root={cityscapes}", *TINY, *schedule(20)]
        call("train.py", FUSED, "--work-dir", tmp_path, "--amp", "--cfg-options", *options)
        assert "CPUAmpOptimWrapper" in (tmp_path / FUSED.name).read_text()
        assert_falls(losses(tmp_path), 20)

    def test_options_of_fp16_are_forgotten_on_a_cpu(self):
        wrapper = dict(type="AmpOptimWrapper", loss_scale="dynamic", dtype="float16", optimizer={})
        config = Config(dict(model={}, optim_wrapper=wrapper))
        train._use_amp(config)
        assert config.optim_wrapper == dict(type="CPUAmpOptimWrapper", optimizer={})

    def test_wrapper_casts_the_forward_pass(self):
        from mmengine.registry import OPTIM_WRAPPERS

        import freqfusion.integrations.openmmlab  # noqa: F401

        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        wrapper = OPTIM_WRAPPERS.build(dict(type="CPUAmpOptimWrapper", optimizer=optimizer))
        with wrapper.optim_context(model):
            out = model(torch.ones(1, 2))
        assert out.dtype == torch.bfloat16
        wrapper.update_params(out.float().sum())
        assert model.weight.dtype == torch.float32


@needs("mmdet", "mmcv._ext")
class TestDetection:
    def test_faster_rcnn_trains_and_is_evaluated(self, tmp_path):
        data = scenes(tmp_path / "coco", "coco", "128x256")
        options = [f"data_root={data}/", *schedule(20)]
        call("train.py", DETECTOR, "--work-dir", tmp_path / "run", "--cfg-options", *options)
        assert_falls(losses(tmp_path / "run"), 20)
        assert "coco/bbox_mAP" in records(tmp_path / "run")[-1]


@needs("mmseg")
class TestOptions:
    """Overrides that MMEngine takes are taken."""

    @pytest.mark.parametrize(
        "option, value",
        [
            ("randomness.deterministic=True", True),
            ("model.neck.fusion.type=CARAFE", "CARAFE"),
            ("optim_wrapper.clip_grad.max_norm=35", 35),
            ("auto_scale_lr.enable=True", True),
            ("work_dir=here", "here"),
        ],
    )
    def test_new_places(self, option, value):
        config = load_config(str(PLAIN), [option])
        for part in option.partition("=")[0].split("."):
            config = config[part]
        assert config == value

    def test_data_without_a_common_folder(self, tmp_path):
        path = tmp_path / "own.py"
        dataset = "dict(dataset=dict(type='CityscapesDataset', data_root='{}', ann='{}/a.txt'))"
        loaders = [
            f"{s}_dataloader = {dataset.format('my/data', 'my/data')}" for s in ("train", "val")
        ]
        path.write_text("\n".join(["default_scope = 'mmseg'", *loaders]))
        config = load_config(str(path), ["data_root=/d/"])
        assert config.val_dataloader.dataset.data_root == "/d"
        assert config.val_dataloader.dataset.ann == "/d/a.txt"
        path.write_text("\n".join([*loaders, f"test_dataloader = {dataset.format('other', 'o')}"]))
        with pytest.raises(
            CommandError, match="no data_root of its own and .* have my/data, other"
        ):
            load_config(str(path), ["data_root=/d/"])

    def test_what_is_elsewhere_is_not_looked_for(self):
        check_checkpoint("https://host/model.pth")
        check_data({"loader": {"data_root": "s3://bucket/data"}}, "loader")


@needs("mmseg")
class TestResume:
    """--resume goes on in the work dir; weights to begin with are only loaded."""

    @pytest.mark.parametrize("begun", [True, False])
    def test_weights_to_begin_with(self, begun, tmp_path):
        if begun:
            (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_3.pth"))
        config = load_config(str(PLAIN), ["load_from=pretrained.pth"], str(tmp_path))
        train._resume(config)
        assert config.resume is begun
        assert config.load_from == (None if begun else "pretrained.pth")


@needs("mmseg")
class TestErrors:
    """Each mistake ends in one sentence on stderr and exit code 2."""

    @staticmethod
    def sentence(tool, *arguments, cwd):
        done = call(tool, *arguments, code=2, cwd=cwd)
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"{tool}: ")
        assert "Traceback" not in done.stdout
        return line

    def test_missing_config(self, tmp_path):
        assert "no config nowhere.py" in self.sentence("train.py", "nowhere.py", cwd=tmp_path)

    def test_corrupt_config(self, tmp_path):
        (tmp_path / "corrupt.py").write_text("model = dict(\n")
        line = self.sentence("train.py", "corrupt.py", cwd=tmp_path)
        assert "cannot read the config corrupt.py: SyntaxError" in line

    def test_missing_library(self, tmp_path):
        (tmp_path / "config.py").write_text("default_scope = 'mmnowhere'\n")
        line = self.sentence("train.py", "config.py", cwd=tmp_path)
        assert "config.py needs mmnowhere" in line
        assert 'pip install --no-build-isolation "freqfusion[mm]"' in line

    def test_missing_data(self, tmp_path):
        line = self.sentence("train.py", PLAIN, cwd=tmp_path)
        assert "no dataset folder data/scenes" in line

    def test_missing_part_of_the_data(self, tmp_path):
        (tmp_path / "data" / "scenes").mkdir(parents=True)
        line = self.sentence("train.py", PLAIN, cwd=tmp_path)
        assert "cannot train" in line and "leftImg8bit/train" in line

    def test_missing_checkpoint(self, tmp_path):
        line = self.sentence("test.py", PLAIN, "nowhere.pth", cwd=tmp_path)
        assert "no checkpoint nowhere.pth" in line

    @pytest.mark.parametrize(
        "option, expected",
        [
            ("train_cfg", "must be KEY=VALUE, got train_cfg"),
            ("trian_cfg.max_iters=3", "has no trian_cfg; did you mean train_cfg?"),
            ("log_level.deep=3", "do not fit the config"),
            ("model.neck.out_chanels=3", "unexpected keyword argument 'out_chanels'"),
            ("model.nekc.out_channels=3", "has no nekc; did you mean neck?"),
            ("randomness.sed=3", "unexpected keyword argument 'sed'"),
            ("max_iters=3", "max_iters only helps to write the config"),
        ],
    )
    def test_wrong_option(self, option, expected, cityscapes, tmp_path):
        options = ["--cfg-options", f"data_root={cityscapes}", option]
        assert expected in self.sentence("train.py", PLAIN, *options, cwd=tmp_path)

    def test_checkpoint_of_another_model(self, cityscapes, tmp_path):
        path = tmp_path / "plain.pth"
        torch.save({"state_dict": build(load_config(str(PLAIN), [])).state_dict()}, path)
        options = ["--cfg-options", f"data_root={cityscapes}"]
        line = self.sentence("test.py", FUSED, path, *options, cwd=tmp_path)
        assert "the checkpoint lacks 60 of the model's parameters, such as neck.alignment.0" in line

    @needs("mmdet", "mmcv._ext")
    def test_amp_of_a_two_stage_detector_on_a_cpu(self, tmp_path):
        line = self.sentence("train.py", DETECTOR, "--amp", cwd=tmp_path)
        assert "--amp on a CPU: mmcv's operators of two-stage detectors are float32" in line

    def test_a_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        done = call("compare.py", PLAIN, "--work-dir", "file", code=2, cwd=tmp_path)
        assert "argument --work-dir: file is not a folder" in done.stderr

    def test_compare_checks_every_config_first(self, tmp_path):
        line = self.sentence("compare.py", PLAIN, "nowhere.py", cwd=tmp_path)
        assert "no dataset folder" in line
        assert not list(tmp_path.iterdir())

    def test_debug_shows_where(self, tmp_path):
        done = call("train.py", "nowhere.py", "--debug", code=1, cwd=tmp_path)
        assert "Traceback" in done.stderr

    @pytest.mark.parametrize("missing", ["mmengine", "mmcv"])
    def test_missing_package(self, missing, tmp_path):
        (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules['{missing}'] = None\n")
        done = subprocess.run(
            command("train.py", PLAIN),
            env={**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert f"needs {missing}, which is not installed" in line

    def test_errors_of_the_training_itself_keep_their_traceback(self, cityscapes, tmp_path):
        options = ["--cfg-options", f"data_root={cityscapes}", *TINY, *schedule(2)]
        options.append("model.decode_head.num_classes=3")  # the labels have more
        done = call("train.py", PLAIN, *options, code=1, cwd=tmp_path)
        assert "Traceback" in done.stderr
