import pytest
import torch

from freqfusion import FreqFusion, adaptive_filter, adaptive_high_pass, reassemble
from freqfusion.export import export_onnx, written_out
from freqfusion.layers.sapa import neighbour_scores
from freqfusion.ops import local_similarity

pytest.importorskip("onnxscript", reason="ONNX needs the packages onnx and onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

Dim = torch.export.Dim
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


class Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def run(path, *args):
    session = onnxruntime.InferenceSession(str(path))
    names = [i.name for i in session.get_inputs()]
    outputs = session.run(
        None, {name: x.detach().numpy() for name, x in zip(names, args, strict=True)}
    )
    return [torch.from_numpy(out) for out in outputs]


WINDOW = torch.rand(3, 3)
OPERATORS = {
    "reassemble": (lambda x, w: reassemble(x, w, 3, groups=2), 18, 2),
    "adaptive_filter": (lambda x, w: adaptive_filter(x, w, 3, window=WINDOW), 9, 2),
    "adaptive_high_pass": (lambda x, w: adaptive_high_pass(x, w, 3, residual=True), 9, 1),
    "neighbour_scores": (lambda x, w: neighbour_scores(w, x, 5), 4, 2),
    "local_similarity": (lambda x, w: local_similarity(x) + 0 * w, 8, 1),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name, tmp_path):
    function, channels, scale = OPERATORS[name]
    model = Function(function)

    def inputs(height, width):
        return torch.randn(1, 4, height, width), torch.randn(
            1, channels, scale * height, scale * width
        )

    h, w = Dim("h", min=3, max=99), Dim("w", min=3, max=99)
    shapes = ({2: h, 3: w}, {2: scale * h, 3: scale * w})
    export_onnx(model, inputs(6, 8), tmp_path / "op.onnx", {"args": shapes})
    for size in ((6, 8), (5, 9)):
        args = inputs(*size)
        (out,) = run(tmp_path / "op.onnx", *args)
        torch.testing.assert_close(out, model(*args), rtol=1e-4, atol=1e-5)


def test_layer_with_open_sizes(tmp_path):
    layer = FreqFusion(8, 16, compressed_channels=16, lowpass_kernel=3, feature_resample=True)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    layer.eval()
    batch, h, w = Dim("batch", max=8), Dim("h", min=2, max=99), Dim("w", min=2, max=99)

    def inputs(images, height, width):
        fine = torch.randn(images, 8, 2 * height, 2 * width)
        return fine, torch.randn(images, 16, height, width)

    shapes = {0: batch, 2: 2 * h, 3: 2 * w}, {0: batch, 2: h, 3: w}
    path = tmp_path / "layer.onnx"
    export_onnx(layer, inputs(2, 6, 8), path, shapes, ["fine", "coarse"], ["mask", "hr", "lr"])
    for size in ((2, 6, 8), (1, 7, 5)):
        args = inputs(*size)
        for out, expected in zip(run(path, *args), layer(*args), strict=True):
            torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="path must be a new file, .*model.onnx exists"):
        export_onnx(torch.nn.Identity(), (torch.ones(1),), path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays(dtype):
    layer = FreqFusion(8, 8, compressed_channels=8, feature_resample=True).to(dtype).eval()
    maps = torch.randn(1, 8, 8, 8, dtype=dtype), torch.randn(1, 8, 4, 4, dtype=dtype)
    with torch.no_grad():
        program = torch.export.export(layer, maps).run_decompositions(written_out())
        for out, expected in zip(program.module()(*maps), layer(*maps), strict=True):
            assert out.dtype == dtype
            torch.testing.assert_close(out, expected, rtol=0.05, atol=0.05)
