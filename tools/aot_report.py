"""Compiles the Triton kernels for GPUs that need not be there, and tells what the compilers made.

    python tools/aot_report.py            # writes the table into kernels/README.md
    python tools/aot_report.py --check    # writes nothing; exit code 1 after a spill or a ceiling

Every kernel, as it is launched first for each of `SHAPES`, in float32 and bfloat16, NCHW and
channels_last, for NVIDIA sm_80, sm_90 and sm_100 and AMD gfx942.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import triton  # noqa: E402
from freqfusion.kernels import launch  # noqa: E402
from freqfusion.kernels.launch import Filter, Launch  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

README = ROOT / "kernels" / "README.md"
MARKS = "<!-- table of tools/aot_report.py -->", "<!-- end of the table -->"
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_MEMORY = {"cuda": 99 * 1024, "hip": 64 * 1024}  # bytes that every such GPU has
REGISTERS = {"cuda": 65536, "hip": 2 * 65536}  # of a multiprocessor; one program must fit
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


class Shape(NamedTuple):
    """A call of the filter, or with `kernel_size` 0 of the similarity."""

    channels: int
    kernel_size: int
    size: tuple[int, int]
    target: tuple[int, int]
    softmax: bool = True
    identity: int = 0
    groups: int = 1
    border: int = 0


COARSE, FINE = (100, 168), (200, 336)  # P3 and P2 of an image of 800 x 1344
SHAPES = {
    "low-pass, 256 channels, k5, x2": Shape(256, 5, COARSE, FINE),
    "low-pass, kernel logits (25)": Shape(25, 5, COARSE, FINE),
    "reassemble, 256 channels, k5, x2": Shape(256, 5, COARSE, FINE, softmax=False),
    "reassemble, kernel logits (9)": Shape(9, 5, COARSE, FINE, softmax=False),
    "high-pass, 256 channels, k3": Shape(256, 3, FINE, FINE, identity=2),
    "high-pass, 64 channels, k3": Shape(64, 3, FINE, FINE, identity=2),
    "low-pass, 4 groups, k5, x2": Shape(256, 5, COARSE, FINE, groups=4),
    "low-pass, k7, x2": Shape(256, 7, COARSE, FINE),
    "low-pass, k5, x1.5": Shape(256, 5, COARSE, (150, 252)),
    "low-pass, k5, x2, reflect": Shape(256, 5, COARSE, FINE, border=2),
    "similarity, 64 channels": Shape(64, 0, FINE, FINE),
}


class Figures(NamedTuple):
    """What a compiler made of one kernel.

    Attributes:
        registers: of a thread (AMD: vector registers).
        shared: bytes of shared memory of a program.
        spills: accesses to thread-local memory (AMD: bytes of scratch memory).
        tensor: matrix instructions of tensor (matrix) cores.
        wide: accesses to global memory of 16 bytes.
        instructions: all of them, without regard to loops.
    """

    registers: int
    shared: int
    spills: int
    tensor: int
    wide: int
    instructions: int


def launches(shape: Shape, dtype: torch.dtype, layout: torch.memory_format) -> Iterator[Launch]:
    """The kernels of forward and backward with the arguments of a real call."""

    def empty(channels: int, size: tuple[int, int]) -> torch.Tensor:
        return torch.empty(2, channels, *size, dtype=dtype, device="meta").to(memory_format=layout)

    padded = tuple(n + 2 * shape.border for n in shape.size)
    x, out = empty(shape.channels, padded), empty(shape.channels, shape.target)
    if not shape.kernel_size:
        similarity = torch.empty(2, 8, *shape.size, device="meta")
        yield next(launch.similarity_forward(x, similarity, 2))
        yield next(launch.similarity_backward(similarity, x, x, 2))
        return
    taps = shape.kernel_size**2
    weight = empty(shape.groups * taps, shape.target)
    window = torch.empty(taps, device="meta") if shape.softmax else None
    lse = torch.empty(2, shape.groups, *shape.target, device="meta") if shape.softmax else None
    f = Filter(shape.kernel_size, shape.groups, shape.softmax, window, shape.identity, shape.border)
    yield next(launch.forward(f, x, weight, out, lse))
    yield next(launch.backward_weight(f, out, x, weight, weight, lse))
    grad_x = x.float() if shape.border else x  # the border is folded back in float32
    yield next(launch.backward_x(f, out, weight, grad_x, lse))


def compile_for(target: GPUTarget, call: Launch) -> Figures:
    """Compiles a launch as Triton would on a machine with such a GPU."""
    options = {"num_warps": call.blocks.warps, "num_stages": call.blocks.stages}
    compiled = triton.compile(_source(call), target=target, options=options)
    read = _read_nvidia if target.backend == "cuda" else _read_amd
    return Figures(shared=compiled.metadata.shared, **read(compiled.asm))


def _source(call: Launch) -> ASTSource:
    """Types, constants and divisibilities of the arguments, specialised as at a launch."""
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(call.kernel.params):
        name, value = parameter.name, call.arguments[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[name] = "constexpr"
            constants[(index,)] = value
            continue
        is_pointer = isinstance(value, torch.Tensor)
        signature[name] = POINTERS[value.dtype] if is_pointer else "i32" if value < 2**31 else "i64"
        if is_pointer or value % 16 == 0:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(call.kernel, signature, constants, attributes)


def _read_nvidia(asm: dict) -> dict:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        text = [
            subprocess.run([tool, o, file.name], capture_output=True, text=True, check=True).stdout
            for o in ("-sass", "-res-usage")
        ]
    opcodes = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text[0], re.M)
    if not opcodes:
        raise RuntimeError(f"cuobjdump printed no instructions: {text[0][:200]!r}")

    def count(pattern: str) -> int:
        return sum(bool(re.match(pattern, opcode)) for opcode in opcodes)

    return {
        "registers": int(re.search(r"REG:(\d+)", text[1])[1]),
        "spills": count("(LDL|STL)"),
        "tensor": count("(HMMA|HGMMA|UTC[A-Z]*MMA)"),
        "wide": count(r"(LDG|LDGSTS|STG)\b.*\.128"),
        "instructions": len(opcodes),
    }


def _read_amd(asm: dict) -> dict:
    text = asm["amdgcn"]

    def count(pattern: str) -> int:
        return len(re.findall(rf"^\s+{pattern}", text, re.M))

    def field(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", text)[1])

    return {
        "registers": field("vgpr_count"),
        "spills": field("private_segment_fixed_size") + field("vgpr_spill_count"),
        "tensor": count("v_mfma"),
        "wide": count(r"(global|buffer)_(load|store)_dwordx4"),
        "instructions": count(r"(s|v|ds|global|buffer)_\w+"),
    }


def broken_ceilings(target: GPUTarget, call: Launch, dtype: str, figures: Figures) -> list[str]:
    """What is wrong with a compiled kernel, in words."""
    threads = call.blocks.warps * target.warp_size
    is_filter = "reassemble" in call.kernel.__name__
    wrong = []
    if figures.spills:
        wrong.append(f"{figures.spills} spills")
    if figures.shared > SHARED_MEMORY[target.backend]:
        wrong.append(f"{figures.shared} bytes of shared memory")
    if figures.registers * threads > REGISTERS[target.backend]:
        wrong.append(f"{figures.registers} registers for {threads} threads")
    if is_filter and dtype == "bf16" and not figures.tensor:
        wrong.append("no tensor-core instructions")
    if call.arguments.get("stride_xc") == 1 and call.arguments["channels"] % 8 == 0:
        wrong += [] if figures.wide else ["no accesses of 16 bytes"]
    return wrong


def report(job: tuple[str, str, str]) -> list[dict]:
    """Rows of one shape, dtype and layout: every kernel for every target."""
    shape, dtype, layout = job
    rows = []
    for call in launches(SHAPES[shape], DTYPES[dtype], LAYOUTS[layout]):
        figures = {name: compile_for(target, call) for name, target in TARGETS.items()}
        wrong = {
            name: broken_ceilings(TARGETS[name], call, dtype, f) for name, f in figures.items()
        }
        rows.append(
            {
                "shape": shape,
                "dtype": dtype,
                "layout": layout,
                "kernel": call.kernel.__name__.removesuffix("_kernel"),
                "blocks": call.blocks,
                "figures": figures,
                "wrong": [f"{name}: {text}" for name, texts in wrong.items() for text in texts],
            }
        )
    return rows


def table(rows: list[dict]) -> str:
    """Markdown: a row for each kernel, a column for each target."""
    lines = [
        "| call | dtype, layout | kernel | tile, channels, warps | " + " | ".join(TARGETS) + " |",
        "|---" * (4 + len(TARGETS)) + "|",
    ]
    for row in rows:
        blocks = row["blocks"]
        cells = [row["shape"], f"{row['dtype']}, {row['layout']}", f"`{row['kernel']}`"]
        cells.append(f"{blocks.rows}x{blocks.cols}, {blocks.channels}, {blocks.warps}")
        for f in row["figures"].values():
            cells.append(
                f"{f.registers} / {f.spills} / {f.shared / 1024:.0f} / {f.tensor} / {f.wide}"
            )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a spill")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        reports = pool.map(report, product(SHAPES, DTYPES, LAYOUTS))
        rows = [row for rows in reports for row in rows]
    wrong = [
        f"{row['shape']}, {row['dtype']}, {row['layout']}, {row['kernel']}, {text}"
        for row in rows
        for text in row["wrong"]
    ]
    compiled = len(rows) * len(TARGETS)
    print(f"{compiled} kernels compiled by triton {triton.__version__}, {len(wrong)} faults")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    if arguments.check:
        return bool(wrong)
    before, _, rest = README.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    text = f"{before}{MARKS[0]}\n\n{table(rows)}\n\n{MARKS[1]}{after}"
    README.write_text(text, encoding="utf-8")
    print(f"table written to {README.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
