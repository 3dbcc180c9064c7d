"""What `gpu.py` measures: the cases, and who computes them."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
import unfold
from mmcv_carafe import Carafe, MmcvFreqFusion, Unavailable
from torch import Tensor, nn

from freqfusion import FreqFusion, FreqFusionFPN
from freqfusion.layers.filters import nearest_resize, normalise_kernels
from freqfusion.ops import adaptive_filter, adaptive_high_pass, local_similarity, reassemble

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
PASSES = {"operator": ("forward", "backward"), "network": ("forward", "forward+backward")}


class Operator(NamedTuple):
    """A filter with the side of its kernels and its scale, or the similarity with side 0."""

    function: Callable[..., Tensor]
    kernel_size: int
    scale: int


OPERATORS = {
    "low_pass": Operator(partial(adaptive_filter, kernel_size=5, scale_factor=2), 5, 2),
    "reassemble": Operator(partial(reassemble, kernel_size=5, scale_factor=2), 5, 2),
    "high_pass": Operator(partial(adaptive_high_pass, kernel_size=3, residual=True), 3, 1),
    "similarity": Operator(local_similarity, 0, 1),
}


class Case(NamedTuple):
    """One of `OPERATORS`, the layer or the neck, at one shape of its (coarse) map."""

    name: str
    batch: int
    channels: int
    size: tuple[int, int]

    @property
    def what(self) -> str:
        """The operator, "layer" or "neck"."""
        return self.name.split(".")[0]

    @property
    def kind(self) -> str:
        """Key of `PASSES`."""
        return "operator" if self.what in OPERATORS else "network"

    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the inputs: map and kernels, fine and coarse map, or four levels."""
        batch, channels, (height, width) = self[1:]
        if self.what == "layer":
            return [(batch, channels, s * height, s * width) for s in (2, 1)]
        if self.what == "neck":
            sides = (2 * height, 2 * width)
            return [
                (batch, channels << i, *(max(side >> i, 1) for side in sides)) for i in range(4)
            ]
        _, kernel_size, scale = OPERATORS[self.what]
        kernels = batch, kernel_size**2, scale * height, scale * width
        return [(batch, channels, height, width), kernels][: 2 if kernel_size else 1]


COARSE, FINE = (100, 168), (200, 336)  # P3 and P2 of an image of 800 x 1344
CASES = [  # the most important first
    Case("low_pass.fpn", 2, 256, COARSE),
    Case("layer.fpn", 2, 256, COARSE),
    Case("reassemble.fpn", 2, 256, COARSE),
    Case("high_pass.fpn", 2, 256, FINE),
    Case("similarity.fpn", 2, 64, FINE),
    Case("neck.fpn", 2, 256, COARSE),
    Case("low_pass.mask2former", 1, 256, (128, 128)),
    Case("low_pass.segnext_256", 16, 256, (16, 16)),
    Case("low_pass.segnext_416", 16, 416, (32, 32)),
]


class Job(NamedTuple):
    """One row of the table."""

    case: Case
    dtype: str
    layout: str
    pass_: str
    contender: str


def floor_bytes(job: Job) -> int:
    """Bytes of an operator's inputs and outputs: those that must move once.

    Raises:
        Unavailable: for a network.
    """
    if job.case.kind == "network":
        raise Unavailable("the floor is counted for operators only")
    (batch, channels, *_), *kernels = job.case.shapes()
    element = DTYPES[job.dtype].itemsize
    inputs = element * sum(map(math.prod, job.case.shapes()))
    if job.case.what == "similarity":
        height, width = job.case.size
        outputs = 4 * batch * 8 * height * width  # neighbours, always float32
    else:
        height, width = kernels[0][2:]
        outputs = element * batch * channels * height * width
        if job.case.what != "reassemble":
            outputs += 4 * batch * height * width  # log-sum-exp; backward reads it
    return outputs + (1 if job.pass_ == "forward" else 2) * inputs


class Machine(NamedTuple):
    """Where it runs.

    Attributes:
        device: of the tensors.
        timer: median, 20th and 80th percentile of a function's milliseconds.
        memory: peak MiB that a function adds.
        compiler: backend of torch.compile.
        mmcv: mmcv's operator, or why it is not available.
        bandwidth: bytes per millisecond of a large copy, read and written.
    """

    device: str
    timer: Callable[[Callable], Iterable[float]]
    memory: Callable[[Callable], float]
    compiler: str
    mmcv: Callable[[], object]
    bandwidth: float


class Run(NamedTuple):
    """A differentiable function with its inputs, and the tensors that gradients are wanted of."""

    function: Callable[..., object]
    inputs: list[Tensor]
    leaves: list[Tensor]


class Form(NamedTuple):
    """A way to compute: a function for the name of an operator, and what replaces a layer."""

    operator: Callable[[str], Callable[..., Tensor]]
    fusion: Callable[[FreqFusion], nn.Module]


def by_filter(filter_: Callable[[Tensor, Tensor, int], Tensor], what: str) -> Callable[..., Tensor]:
    """The operator `what`, written with `filter_`, a function of a map, kernels and their size."""
    return {
        "low_pass": lambda x, logits: filter_(x, normalise_kernels(logits, 5), 5),
        "reassemble": lambda x, weight: filter_(x, weight, 5),
        "high_pass": lambda x, logits: 2 * x - filter_(x, normalise_kernels(logits, 3), 3),
        "similarity": unfold.local_similarity,
    }[what]


def twin(form: type[FreqFusion], layer: FreqFusion) -> FreqFusion:
    """`layer` as a `form`, with the same weights."""
    compressed = layer.hr_channel_compressor.out_channels
    other = form(layer.hr_channels, layer.lr_channels, compressed, feature_resample=True)
    other.load_state_dict(layer.state_dict())
    return other


class NearestAdd(nn.Module):
    """Upsampling by repetition in the place of `FreqFusion`."""

    def forward(self, hr: Tensor, lr: Tensor) -> tuple[None, Tensor, Tensor]:
        """See `FreqFusion`; there are no kernels."""
        return None, hr, nearest_resize(lr, hr.shape[2:])


OURS = Form(lambda what: OPERATORS[what].function, lambda layer: layer)
UNFOLD = Form(partial(by_filter, unfold.reassemble), partial(twin, unfold.UnfoldFreqFusion))
NEAREST = Form(
    lambda what: lambda x, fine: fine + F.interpolate(x, scale_factor=2), lambda layer: NearestAdd()
)


def run_of(machine: Machine, job: Job, form: Form, shapes: list | None = None) -> Run:
    """The case of `job` computed by `form`, alike in all forms but for `shapes` of the inputs."""
    torch.manual_seed(0)
    inputs, options = [], dict(dtype=DTYPES[job.dtype], memory_format=LAYOUTS[job.layout])
    for shape in shapes or job.case.shapes():
        x = torch.empty(shape, device=machine.device, **options)
        inputs.append(x.copy_(torch.randn(shape, device=machine.device)).requires_grad_())
    if job.case.kind == "operator":
        return Run(form.operator(job.case.what), inputs, inputs)
    channels = job.case.channels
    if job.case.what == "layer":
        network = fusion = form.fusion(FreqFusion(channels, channels, feature_resample=True))

        def function(hr, lr):
            _, fine, coarse = fusion(hr, lr)
            return fine + coarse
    else:
        network = FreqFusionFPN([channels << i for i in range(4)], channels, num_outs=4)
        network.alignment = nn.ModuleList(map(form.fusion, network.alignment))

        def function(*feats):
            return network(feats)

    network.to(machine.device, **options)
    return Run(function, inputs, [*inputs, *network.parameters()])


def prepare(run: Run, pass_: str) -> Callable[[], object]:
    """What is timed: a function of no arguments that does the pass and returns its results."""
    function, inputs, leaves = run

    def forward():
        with torch.no_grad():
            return function(*inputs)

    if pass_ == "forward":
        return forward
    if pass_ == "backward":
        out = tensors(function(*inputs))
        grads = _cotangents(out)
        return lambda: torch.autograd.grad(out, leaves, grads, retain_graph=True)
    grads = _cotangents(tensors(function(*inputs)))
    return lambda: torch.autograd.grad(tensors(function(*inputs)), leaves, grads)


def _cotangents(out: tuple[Tensor, ...]) -> list[Tensor]:
    torch.manual_seed(1)  # alike for all forms, whatever random numbers they took
    return [torch.empty_like(o).copy_(torch.randn(o.shape, device=o.device)) for o in out]


def tensors(out) -> tuple[Tensor, ...]:
    """`out`, one tensor or several, as a tuple."""
    return (out,) if isinstance(out, Tensor) else tuple(out)


# The contenders: from a machine and a job to what is timed.


def ours(machine: Machine, job: Job) -> Callable:
    """The package as it is."""
    return prepare(run_of(machine, job, OURS), job.pass_)


def replayed(machine: Machine, job: Job) -> Callable:
    """Ours, captured in a CUDA graph."""
    if machine.device == "cpu":
        raise Unavailable("there are no CUDA graphs on the CPU")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # backward runs on the stream that forward ran on
        function = ours(machine, job)
        for _ in range(3):
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        out = function()

    def replay():
        graph.replay()
        return out

    return replay


def unfolded(machine: Machine, job: Job) -> Callable:
    """The unfold form."""
    return prepare(run_of(machine, job, UNFOLD), job.pass_)


def compiled(machine: Machine, job: Job) -> Callable:
    """The unfold form, compiled."""
    torch._dynamo.reset()
    torch._functorch.config.donated_buffer = False  # else a backward cannot run a second time
    run = run_of(machine, job, UNFOLD)
    function = torch.compile(run.function, dynamic=False, backend=machine.compiler)
    return prepare(run._replace(function=function), job.pass_)


def in_pytorch(machine: Machine, job: Job) -> Callable:
    """Our PyTorch path."""
    with _pytorch_backend():
        function = ours(machine, job)

    def call():
        with _pytorch_backend():
            return function()

    return call


@contextlib.contextmanager
def _pytorch_backend():
    before = os.environ.get("FREQFUSION_BACKEND", "auto")
    os.environ["FREQFUSION_BACKEND"] = "torch"
    try:
        yield
    finally:
        os.environ["FREQFUSION_BACKEND"] = before


def nearest_add(machine: Machine, job: Job) -> Callable:
    """Upsampling by repetition, and the addition."""
    shapes = job.case.shapes()
    if job.case.kind == "operator":
        if OPERATORS[job.case.what].scale == 1:
            raise Unavailable("it replaces upsampling only")
        shapes[1] = *shapes[0][:2], *shapes[1][2:]
    return prepare(run_of(machine, job, NEAREST, shapes), job.pass_)


def mmcv(machine: Machine, job: Job) -> Callable:
    """CARAFE of mmcv, which knows neither bfloat16 nor channels_last."""
    if job.case.what == "similarity":
        raise Unavailable("mmcv has no such operator")
    extension = machine.mmcv()
    if isinstance(extension, Unavailable):
        raise extension
    if job.dtype == "bf16":
        job = job._replace(dtype="fp16")
    if job.case.kind == "operator":
        job = job._replace(layout="nchw")

    def carafe(x, weight, kernel_size):
        return Carafe.apply(x, weight, kernel_size, extension)

    def fusion(layer):
        other = twin(MmcvFreqFusion, layer)
        other.carafe = carafe
        return other

    form = Form(partial(by_filter, carafe), fusion)
    return prepare(run_of(machine, job, form), job.pass_)


CONTENDERS = {
    "ours": ours,
    "graph": replayed,
    "unfold": unfolded,
    "torch": in_pytorch,
    "nearest_add": nearest_add,
    "mmcv": mmcv,
    "compile": compiled,
}
NOTES = {
    "graph": "without the time of the CPU; the graph holds the memory",
    "mmcv": "float16 for bfloat16; operators in NCHW, the layers' copies to NCHW included",
}
