import ast
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import freqfusion

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "freqfusion"
KERNELS = ROOT / "kernels"
LAYERS_OF_THE_PACKAGE = [
    "ops",
    "layers",
    "necks",
    "distillation",
    "analysis",
    "integrations",
]  # each may import those before it
FRAMEWORKS = ("mmengine", "mmcv", "mmseg", "mmdet")


def run_python(code, *options, **kwargs):
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, **kwargs).stdout


def imported_modules(path):
    """Absolute names of what a file of the repository imports, inside of functions too."""
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_go_one_way(path):
    part = path.relative_to(PACKAGE).parts[0]
    imports = set(imported_modules(path))
    assert imports or path.name == "__init__.py"
    roots = {name.split(".")[0] for name in imports}
    assert not roots & {"kernels", "tools", "mm_configs", "torchvision"}
    if part != "integrations":
        assert not roots & set(FRAMEWORKS)
    if part in LAYERS_OF_THE_PACKAGE:
        later = LAYERS_OF_THE_PACKAGE[LAYERS_OF_THE_PACKAGE.index(part) + 1 :]
        for name in later:
            assert not any(f"{i}.".startswith(f"freqfusion.{name}.") for i in imports), name
    loads_triton = [i for i in imports if f"{i}.".startswith("freqfusion.kernels.")]
    assert not loads_triton or path == PACKAGE / "ops" / "accelerated.py"


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.py")), ids=lambda p: p.name)
def test_kernels_import_torch_and_triton_alone(path):
    imports = set(imported_modules(path))
    roots = {name.split(".")[0] for name in imports}
    assert roots <= {"torch", "triton", "kernels", *sys.stdlib_module_names}
    assert not (KERNELS / "__init__.py").exists()  # `kernels` is another package's name


def test_environment_variables_are_read_in_one_place():
    readers = [
        p for p in (*PACKAGE.rglob("*.py"), *KERNELS.glob("*.py")) if "environ" in p.read_text()
    ]
    assert readers == [PACKAGE / "env.py"]


def test_the_test_above_can_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "freqfusion" / "ops" / "bad.py"
    file.parent.mkdir(parents=True)
    file.write_text("def f():\n    from ..layers import FreqFusion\n    import mmcv.ops\n")
    assert {"freqfusion.layers", "mmcv.ops"} <= set(imported_modules(file))


def test_import_is_light(tmp_path):
    for name in ("triton", "torchvision", "matplotlib", *FRAMEWORKS):  # as if they were installed
        (tmp_path / f"{name}.py").touch()
    code = "import sys, freqfusion; print(*{name.split('.')[0] for name in sys.modules})"
    path = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    loaded = set(run_python(code, cwd=tmp_path, env=path).split())
    assert "torch" in loaded
    assert not loaded & {"triton", "torchvision", *FRAMEWORKS, "kernels", "matplotlib", "cv2"}


PROBE = "freqfusion, importlib.util; importlib.util.find_spec('torch.utils.flop_counter')"


@pytest.mark.parametrize("first", ["freqfusion", "torch.utils.flop_counter", PROBE])
def test_flops_are_counted_whichever_is_imported_first(first):
    code = (
        f"import {first}; import torch, freqfusion\n"
        "from torch.utils.flop_counter import FlopCounterMode\n"
        "counter = FlopCounterMode(display=False)\n"
        "with counter: freqfusion.reassemble(torch.ones(1, 2, 4, 4), torch.ones(1, 9, 8, 8), 3)\n"
        "print(counter.get_total_flops())"
    )
    assert int(run_python(code, cwd=ROOT)) == 2 * 9 * 2 * 64


def test_import_is_silent():
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", "import freqfusion"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_public_names_are_documented():
    for name in freqfusion.__all__:
        assert len(getattr(freqfusion, name).__doc__) > 60, name


def test_every_package_is_listed_in_setup():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert '"freqfusion.kernels"' in setup
    for init in PACKAGE.rglob("__init__.py"):
        assert f'"{".".join(init.relative_to(ROOT).parts[:-1])}"' in setup


@pytest.fixture(scope="session")
def distributions(tmp_path_factory):
    pytest.importorskip("build", reason="building needs the package `build`")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.mark.parametrize("kind", [0, 1], ids=["wheel", "sdist"])
def test_distribution_installs_and_imports(distributions, kind, tmp_path):
    target = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*command, "--target", str(target), str(distributions[kind])], check=True)
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r}); import torch, freqfusion; "
        "print(freqfusion.__file__); "
        "freqfusion.FreqFusion(8, 8)(torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 2, 2))"
    )
    assert run_python(code, "-I", cwd=tmp_path).startswith(str(target))
    assert (target / "freqfusion" / "py.typed").exists()
    assert not (target / "kernels").exists()
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r}); from importlib.util import find_spec\n"
        "print(find_spec('freqfusion.kernels.launch').origin)"
    )
    installed = target / "freqfusion" / "kernels" / "launch.py"
    assert run_python(code, "-I", cwd=tmp_path).strip() == str(installed)


def test_distributions_hold_what_they_should(distributions):
    wheel, sdist = distributions
    names = zipfile.ZipFile(wheel).namelist()
    assert "freqfusion/integrations/openmmlab/__init__.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "tools", "benchmarks"))]
    with tarfile.open(sdist) as archive:
        members = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "setup.py", "freqfusion/py.typed"} <= members


def test_imports_from_a_bare_checkout(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from importlib.util import find_spec\n"
        "print(*(find_spec(f'freqfusion{n}').origin for n in ('', '.kernels.launch')))"
    )
    expected = [str(PACKAGE / "__init__.py"), str(KERNELS / "launch.py")]
    assert run_python(code, "-I", cwd=tmp_path).split() == expected


def test_another_package_called_kernels_is_left_alone(tmp_path):
    other = tmp_path / "kernels" / "__init__.py"
    other.parent.mkdir()
    other.write_text("name = 'other'")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "import freqfusion, kernels; from importlib.util import find_spec\n"
        "print(kernels.name, find_spec('freqfusion.kernels.launch').origin)"
    )
    assert run_python(code, "-I").split() == ["other", str(KERNELS / "launch.py")]
