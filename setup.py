"""All metadata of the package. Nothing here imports torch or triton."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
INIT = (ROOT / "freqfusion" / "__init__.py").read_text(encoding="utf-8")

setup(
    name="freqfusion",
    version=re.search(r'^__version__ = "(.+)"', INIT, re.MULTILINE).group(1),
    description="FreqFusion: frequency-aware feature fusion for dense prediction, in PyTorch",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="pytorch segmentation detection feature-pyramid upsampling carafe openmmlab",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10",
    packages=[
        "freqfusion",
        "freqfusion.analysis",
        "freqfusion.distillation",
        "freqfusion.integrations",
        "freqfusion.integrations.openmmlab",
        "freqfusion.kernels",
        "freqfusion.layers",
        "freqfusion.necks",
        "freqfusion.ops",
    ],
    # In a checkout the kernels are at the top; `kernels` is the import name of another package.
    package_dir={"freqfusion.kernels": "kernels"},
    package_data={"freqfusion": ["py.typed"]},
    install_requires=["torch>=2.6", "numpy"],
    extras_require={
        "triton": ["triton; platform_system == 'Linux'"],
        "wavelets": ["ptwt"],  # those other than Haar
        "analysis": ["matplotlib"],
        "onnx": ["onnxruntime", "onnxscript"],
        "tensorboard": ["tensorboard", "future"],  # for MMEngine's TensorboardVisBackend
        # The maintained forks of OpenMMLab. mmcv compiles its operators only if torch is there
        # first and pip does not isolate the build; README.md has the two commands.
        "mm": [
            "onedl-mmengine==0.10.12",
            "onedl-mmcv==2.3.6",
            "onedl-mmsegmentation==1.4.2",
            "onedl-mmdetection==3.5.1",
        ],
        # Segmentation alone needs no compiled operators.
        "mmseg": [
            "onedl-mmengine==0.10.12",
            "onedl-mmcv==2.3.6",
            "onedl-mmsegmentation==1.4.2",
        ],
        # The original packages, with operators compiled likewise (setuptools < 82).
        "mm-original": [
            "mmengine==0.11.0rc3",
            "mmcv==2.1.0",
            "mmsegmentation==1.2.2",
            "mmdet==3.3.0",
            "ftfy",  # imported by mmsegmentation and not named by it
            "regex",
        ],
        "dev": [
            "build",
            "pytest>=9",  # ends a run that hangs
            "ruff",
            "matplotlib",
            "ptwt",
            "onnxruntime",
            "onnxscript",
            "triton==3.8.*; platform_system == 'Linux'",
        ],
    },
)
