"""The recorder of feature maps: what it takes, what it leaves behind, and its errors."""

import pytest
import torch
from torch import nn

from freqfusion.recorder import FeatureRecorder


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.neck = Levels()

    def forward(self, x):
        return self.neck(self.stem(x), 2)


class Levels(nn.Module):
    def forward(self, x, factor):
        return [x, (factor * x, -x)]


@pytest.fixture
def model():
    return Pyramid()


@pytest.mark.parametrize(
    "name, expected",
    [
        ("stem", lambda y: y),
        ("neck:in[0]", lambda y: y),
        ("neck[0]", lambda y: y),
        ("neck[1][0]", lambda y: 2 * y),
        ("neck[-1][-1]", lambda y: -y),
        ("[1][0]", lambda y: 2 * y),
    ],
)
def test_takes_what_the_name_says(model, name, expected):
    x = torch.randn(2, 3, 5, 4)
    with FeatureRecorder(model, [name]) as recorder:
        model(x)
        assert torch.equal(recorder.features[name], expected(model.stem(x)))
        recorder.features[name].sum().backward()
    assert model.stem.weight.grad.abs().sum() > 0


def test_leaves_nothing_behind(model):
    recorder = FeatureRecorder(model, ["stem", "neck[0]"])
    model(torch.randn(1, 3, 2, 2))
    assert not recorder.features  # no hook before the context
    keys = list(model.state_dict())
    with pytest.raises(RuntimeError, match="in the middle"), recorder:
        model(torch.randn(1, 3, 2, 2))
        assert list(model.state_dict()) == keys
        raise RuntimeError("in the middle")
    assert not recorder.features
    assert not any(module._forward_hooks for module in model.modules())


def test_one_name(model):
    with FeatureRecorder(model, "stem") as recorder:
        model(torch.zeros(1, 3, 2, 2))
        assert list(recorder.features) == ["stem"]


def test_last_call_counts(model):
    with FeatureRecorder(model, ["stem"]) as recorder:
        model(torch.zeros(1, 3, 2, 2))
        last = torch.randn(1, 3, 2, 2)
        model(last)
        assert torch.equal(recorder.features["stem"], model.stem(last))


def test_unknown_module_lists_those_that_exist(model):
    with pytest.raises(ValueError, match="no module 'sten'.*mean 'stem'.*it has: stem, neck"):
        FeatureRecorder(model, ["sten"])
    with pytest.raises(ValueError, match=r"layers must be like .*got 'neck\[x\]'"):
        FeatureRecorder(model, ["neck[x]"])


@pytest.mark.parametrize(
    "name, message",
    [
        ("neck", "must be a tensor, got a list of 2; choose one"),
        ("neck[2]", "does not exist, a list of 2"),
        ("neck:in[1]", "must be a tensor, got a int"),
    ],
)
def test_no_tensor_there(model, name, message):
    with FeatureRecorder(model, [name]), pytest.raises(TypeError, match=message):
        model(torch.zeros(1, 3, 2, 2))
