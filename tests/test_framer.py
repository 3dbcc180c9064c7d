"""Self-distillation: the losses' limits and gradients, two processes, any model, MMEngine."""

import copy
import importlib.util
import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from processes import in_two_processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from freqfusion import band_energy, frequency_split
from freqfusion.distillation import (
    Connectors,
    FramerLoss,
    FramerModel,
    InterContrastiveLoss,
    IntraContrastiveLoss,
    project,
    resize,
)
from freqfusion.distillation.alignment import orthogonal

ROOT = Path(__file__).parents[1]
HAS_OPENMMLAB = all(importlib.util.find_spec(name) for name in ("mmengine", "mmcv"))


def with_similarity(similarity, count=1):
    """Vectors (student, other): a student that is (1, 0) and one at the angle that is asked for."""
    other = torch.tensor([similarity, math.sqrt(1 - similarity**2)]).expand(count, 2)
    return torch.tensor([1.0, 0.0]).expand(count, 2), other


class TestIntraContrastiveLoss:
    @pytest.mark.parametrize(
        "positive, negative, expected",
        [(1, 0, 0.3133), (1, -1, 0.1269), (0.4, 0.4, 0.6931), (0, 0, 0.6931), (0, 1, 1.3133)],
    )
    def test_limits(self, positive, negative, expected):
        student, teacher = with_similarity(positive, 3)
        _, other = with_similarity(negative, 3)
        loss = IntraContrastiveLoss(tau=1.0)(3 * student, 5 * teacher, 7 * other)
        torch.testing.assert_close(loss, torch.full((3,), expected), rtol=0, atol=1e-4)

    def test_without_another_layer_its_similarity_counts_as_0(self):
        student, teacher = with_similarity(1)
        torch.testing.assert_close(
            IntraContrastiveLoss(tau=1.0)(student, teacher),
            torch.tensor([0.3133]),
            atol=1e-4,
            rtol=0,
        )

    def test_temperature(self):
        student, teacher = with_similarity(0.3)
        _, other = with_similarity(0.2)
        loss = IntraContrastiveLoss(tau=0.05)(student, teacher, other)
        torch.testing.assert_close(loss, torch.tensor([math.log(1 + math.exp(-0.1 / 0.05))]))


class TestInterContrastiveLoss:
    @pytest.mark.parametrize(
        "negatives, tau, expected",
        [(2, 1.0, 0.5514), (8, 1.0, 1.3720), (32, 1.0, 2.5473), (2, 0.1, 0.0001), (8, 0.1, 0.0004)],
    )
    def test_floor(self, negatives, tau, expected):
        """Another layer and the other images, which resemble nothing."""
        vectors = torch.eye(negatives, negatives + 1)
        other = torch.zeros_like(vectors)
        other[:, -1] = 1
        for negative in (other, None):
            loss = InterContrastiveLoss(tau)(vectors, vectors, negative)
            torch.testing.assert_close(loss, torch.full_like(loss, expected), rtol=0, atol=1e-4)

    def test_is_what_the_equation_says(self):
        student, teacher, other = torch.randn(3, 5, 40, dtype=torch.float64)
        loss = InterContrastiveLoss(tau=0.3)(student, teacher, other)
        exp = torch.exp(F.cosine_similarity(student[:, None], teacher[None], dim=2) / 0.3)
        negative = torch.exp(F.cosine_similarity(student, other) / 0.3)
        expected = -torch.log(exp.diagonal() / (exp.sum(1) + negative))
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("contrast", [IntraContrastiveLoss, InterContrastiveLoss])
class TestBothContrasts:
    def test_student_alone_gets_a_gradient(self, contrast):
        maps = torch.randn(3, 2, 4, 3, 3, dtype=torch.float64).unbind()
        student, teacher, other = (x.requires_grad_() for x in maps)
        contrast()(student, teacher, other).sum().backward()
        assert student.grad.abs().sum() > 0
        assert teacher.grad is None and other.grad is None

    def test_gradcheck(self, contrast):
        student, teacher, other = torch.randn(3, 2, 4, 3, 3, dtype=torch.float64)
        student.requires_grad_()
        assert torch.autograd.gradcheck(lambda x: contrast(0.5)(x, teacher, other), student)

    def test_half_precision_and_autocast(self, contrast):
        student, teacher, other = 300 * torch.randn(3, 2, 64, 8, 8)
        expected = contrast()(student, teacher, other)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(
                contrast()(student, teacher, other), expected, rtol=0, atol=0
            )
        half = contrast()(student.half(), teacher.half(), other.half())
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, expected, rtol=1e-3, atol=1e-3)

    def test_a_map_of_zeros_has_a_finite_gradient(self, contrast):
        student = torch.zeros(2, 8, requires_grad=True)
        contrast()(student, torch.randn(2, 8), torch.randn(2, 8)).sum().backward()
        assert student.grad.isfinite().all() and student.grad.abs().max() < 1e5

    def test_errors(self, contrast):
        x = torch.randn(2, 8)
        for tau in (0, -1, "warm", float("inf")):
            with pytest.raises(ValueError, match=f"tau must be a number .* got {tau!r}"):
                contrast(tau)
        with pytest.raises(ValueError, match=r"teacher must have .*, \(2, 8\), got \(2, 7\)"):
            contrast()(x, x[:, 1:])
        with pytest.raises(ValueError, match=r"other must have .*, \(2, 8\), got \(1, 8\)"):
            contrast()(x, x, x[1:])


def reference(students, teacher, others, tau=0.1, cutoff=0.2, relative=False, floor=0.0):
    """The equations, one after another, for maps of one size; all losses and weights of a batch."""
    target = frequency_split(teacher, cutoff)
    target_energy = band_energy(teacher, cutoff)
    rows = []
    for student, other in zip(students, others, strict=True):
        bands, negative = frequency_split(student, cutoff), frequency_split(other, cutoff)
        energy = band_energy(student, cutoff)

        def cosines(x, y):
            return F.cosine_similarity(x.flatten(1)[:, None], y.flatten(1)[None], dim=2)

        def exp(x, y):
            return torch.exp(cosines(x, y) / tau)

        low = exp(bands[0], target[0]).diagonal()
        intra = -torch.log(low / (low + exp(bands[0], negative[0]).diagonal()))
        high = exp(bands[1], target[1])
        inter = -torch.log(high.diagonal() / (high.sum(1) + exp(bands[1], negative[1]).diagonal()))
        weights = []
        for i in (0, 1):
            gap = (target_energy[i] - energy[i]).abs() / (energy[i] if relative else 1)
            similarity = cosines(bands[i], target[i]).diagonal().clamp_min(floor)
            weights.append(((1 / (1 + gap)) * similarity).detach())
        rows.append((intra, inter, *weights))
    return rows


def layers(count=3, batch=3, size=(8, 10), dtype=torch.float64):
    """Layers that resemble the last one, which is the teacher."""
    teacher = torch.randn(batch, 4, *size, dtype=dtype)
    students = [teacher + torch.randn(batch, 4, *size, dtype=dtype) for _ in range(count)]
    return {f"layer{i}": x.requires_grad_() for i, x in enumerate(students)}, teacher


class TestFramerLoss:
    @pytest.mark.parametrize("relative, floor", [(False, 0.0), (True, 0.5)])
    def test_is_what_the_equations_say(self, relative, floor):
        students, teacher = layers(count=2)  # so that the other layer is known
        loss = FramerLoss(loss_weight=0.7, relative=relative, fam_floor=floor)
        terms = loss(students, teacher)
        first, second = (x.detach().clone().requires_grad_() for x in students.values())
        others = second.detach(), first.detach()
        rows = reference((first, second), teacher, others, relative=relative, floor=floor)
        losses = [(low * intra + high * inter).mean() for intra, inter, low, high in rows]
        expected = 0.7 * sum(losses) / 2
        torch.testing.assert_close(terms["loss"], expected)
        for name, (intra, inter, *_) in zip(students, rows, strict=True):
            torch.testing.assert_close(terms[f"{name}/intra"], intra.mean().detach())
            torch.testing.assert_close(terms[f"{name}/inter"], inter.mean().detach())
        # weights are constants there, the teacher and the other layer too
        terms["loss"].backward()
        expected.backward()
        for ours, theirs in zip(students.values(), (first, second), strict=True):
            assert theirs.grad.abs().sum() > 0
            torch.testing.assert_close(ours.grad, theirs.grad)

    def test_similarities_are_those_of_the_bands(self):
        students, teacher = layers()
        terms = FramerLoss(cutoff=0.3)(students, teacher)
        for name, x in students.items():
            bands = zip(frequency_split(x, 0.3), frequency_split(teacher, 0.3), strict=True)
            for key, (ours, theirs) in zip(("low", "high"), bands, strict=True):
                expected = F.cosine_similarity(ours.flatten(1), theirs.flatten(1)).mean()
                torch.testing.assert_close(terms[f"{name}/{key}"], expected.detach())
                assert not terms[f"{name}/{key}"].requires_grad

    def test_teacher_gets_no_gradient(self):
        students, teacher = layers()
        FramerLoss()(students, teacher.requires_grad_())["loss"].backward()
        assert teacher.grad is None
        assert all(x.grad.abs().sum() > 0 for x in students.values())

    def test_switches_of_the_weights(self):
        students, teacher = layers(count=2)
        others = list(students.values())[::-1]
        rows = reference(students.values(), teacher, others)
        for faw, fam in ((False, False), (False, True), (True, False), (True, True)):
            found = FramerLoss(loss_weight=1, faw=faw, fam=fam)(students, teacher)["loss"]
            terms = []
            for (intra, inter, low, high), x in zip(rows, students.values(), strict=True):
                bands = zip(frequency_split(x, 0.2), frequency_split(teacher, 0.2), strict=True)
                alike = [F.cosine_similarity(a.flatten(1), b.flatten(1)) for a, b in bands]
                weights = [low / alike[0], high / alike[1]] if faw else [1, 1]
                if fam:
                    weights = [w * a for w, a in zip(weights, alike, strict=True)]
                terms.append((weights[0] * intra + weights[1] * inter).mean())
            torch.testing.assert_close(found, sum(terms) / 2)

    def test_floor_lets_a_stranger_learn(self):
        teacher = torch.randn(2, 8, 8, 8)
        student = {"layer": (-teacher).requires_grad_()}
        (still,) = torch.autograd.grad(FramerLoss()(student, teacher)["loss"], student["layer"])
        assert not still.any()
        student = {"layer": (-teacher + 0.1 * torch.randn(2, 8, 8, 8)).requires_grad_()}
        loss = FramerLoss(fam_floor=0.2)(student, teacher)["loss"]
        (moved,) = torch.autograd.grad(loss, student["layer"])
        assert moved.abs().sum() > 0

    @pytest.mark.parametrize("domain", ["spatial", "magnitude"])
    @pytest.mark.parametrize("mask", ["radial", "square", "magnitude_quantile"])
    def test_gradcheck(self, mask, domain):
        students, teacher = layers(count=1, batch=2, size=(4, 5))
        loss = FramerLoss(mask=mask, domain=domain, faw=False, fam=False, tau=0.5)
        assert torch.autograd.gradcheck(
            lambda x: loss({"layer": x}, teacher)["loss"], students["layer0"]
        )

    def test_no_weight_no_graph(self):
        students, teacher = layers()
        terms = FramerLoss(loss_weight=0)(students, teacher)
        assert terms["loss"] == 0 and not terms["loss"].requires_grad
        expected = FramerLoss()(students, teacher)
        assert terms["layer1/inter"] == expected["layer1/inter"] > 0

    def test_precision(self):
        students, teacher = layers(dtype=torch.float32)
        expected = FramerLoss()(students, teacher)
        with torch.autocast("cpu", torch.bfloat16):
            under = FramerLoss()(students, teacher)
        torch.testing.assert_close(under, expected, rtol=0, atol=0)
        half = FramerLoss()({n: x.bfloat16() for n, x in students.items()}, teacher.bfloat16())
        assert half["loss"].dtype == torch.float32
        torch.testing.assert_close(half, expected, rtol=2e-2, atol=2e-2)

    def test_training_aligns_both_bands(self):
        teacher = torch.randn(4, 8, 16, 16)
        students = {f"layer{i}": nn.Parameter(torch.randn(4, 8, 16, 16)) for i in range(3)}
        optimizer = torch.optim.Adam(students.values(), lr=0.05)
        loss = FramerLoss(fam_floor=0.1)
        before = loss(students, teacher)
        for _ in range(60):
            optimizer.zero_grad()
            loss(students, teacher)["loss"].backward()
            optimizer.step()
        after = loss(students, teacher)
        for name in students:
            assert before[f"{name}/low"] < 0.3 and before[f"{name}/high"] < 0.1
            for band in ("low", "high"):
                assert after[f"{name}/{band}"] > before[f"{name}/{band}"] + 0.4

    @pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2)], ids=str)
    def test_tiny_maps(self, size):
        students, teacher = layers(size=size)
        terms = FramerLoss()(students, teacher)
        terms["loss"].backward()
        assert all(value.isfinite() for value in terms.values())
        assert all(x.grad.isfinite().all() for x in students.values())

    def test_soft_transition(self):
        student, teacher = torch.randn(2, 2, 4, 16, 16)
        sharp, soft = (FramerLoss(soft=width)({"a": student}, teacher) for width in (0, 0.3))
        assert not torch.isclose(sharp["a/low"], soft["a/low"])

    @pytest.mark.parametrize("energies", [(3.0, 1.0), (1.0, 3.0)])
    def test_weight_is_of_the_distance_of_energies(self, energies):
        student, teacher = map(torch.tensor, energies)
        weight = FramerLoss(fam=False)._weight(torch.ones(1), student[None], teacher[None])
        assert weight.item() == pytest.approx(1 / 3)


class TestDomains:
    def test_magnitudes_do_not_see_where_things_are(self):
        teacher = torch.randn(2, 4, 16, 16)
        moved = {"layer": teacher.roll((3, 5), (2, 3))}
        magnitude = FramerLoss(domain="magnitude")(moved, teacher)
        torch.testing.assert_close(magnitude["layer/high"], torch.tensor(1.0))
        assert FramerLoss()(moved, teacher)["layer/high"] < 0.2

    def test_magnitudes_leave_little_to_learn_at_temperature_1(self):
        students = {f"layer{i}": torch.randn(4, 8, 12, 12) for i in range(4)}
        teacher = torch.randn(4, 8, 12, 12)
        terms = FramerLoss(domain="magnitude", tau=1.0)(students, teacher)
        losses = [terms[f"{name}/intra"] for name in students]
        assert all(0.3132 < loss < 1.3133 for loss in losses)
        assert all(terms[f"{name}/high"] > 0.7 for name in students)  # noises are alike

    def test_quantile_mask_is_the_teachers(self):
        teacher = torch.randn(2, 4, 12, 12)
        students = {"layer": torch.randn(2, 4, 12, 12)}
        terms = FramerLoss(mask="magnitude_quantile")(students, teacher)
        spectra = [torch.fft.rfft2(x, norm="ortho") for x in (students["layer"], teacher)]
        magnitude = spectra[1].abs().flatten(1)
        threshold = magnitude.sort(dim=1, descending=True).values[
            :, round(0.2 * magnitude.shape[1]) - 1
        ]
        low = (spectra[1].abs() >= threshold[:, None, None, None]).float()
        maps = [torch.fft.irfft2(x * low, s=(12, 12), norm="ortho").flatten(1) for x in spectra]
        expected = F.cosine_similarity(*maps).mean()
        torch.testing.assert_close(terms["layer/low"], expected, rtol=0, atol=1e-3)


class TestOtherLayer:
    def test_is_drawn_among_the_other_students_by_a_seed(self):
        names = ["a", "b", "c", "d"]
        maps = {name: torch.zeros(1) for name in names}

        def draw(seed, steps=40):
            loss = FramerLoss(seed=seed)
            drawn = [loss._others(maps) for _ in range(steps)]
            return [[names[[x is y for y in maps.values()].index(True)] for x in d] for d in drawn]

        first = draw(0)
        assert first == draw(0) != draw(1)
        for i, name in enumerate(names):
            assert {step[i] for step in first} == {*names} - {name}

    def test_does_not_touch_the_random_numbers_of_the_training(self):
        students, teacher = layers()
        students["wide"] = torch.randn(3, 7, 8, 10)  # is projected by a random matrix
        state = torch.get_rng_state()
        FramerLoss()(students, teacher)
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_single_student_has_none(self):
        students, teacher = layers(count=1)
        terms = FramerLoss(tau=1.0)({"layer": teacher}, teacher)
        torch.testing.assert_close(
            terms["layer/intra"], torch.tensor(0.3133).double(), atol=1e-4, rtol=0
        )


class TestAlignment:
    def test_student_keeps_its_size(self):
        student, teacher = torch.randn(2, 4, 8, 12), torch.randn(2, 4, 32, 48)
        terms = FramerLoss()({"layer": student}, teacher)
        expected = FramerLoss()({"layer": student}, F.avg_pool2d(teacher, 4))
        torch.testing.assert_close(terms, expected)

    def test_student_takes_the_size_of_the_teacher(self):
        student, teacher = torch.randn(2, 4, 8, 12), torch.randn(2, 4, 32, 48)
        terms = FramerLoss(match="teacher")({"layer": student}, teacher)
        large = F.interpolate(student, scale_factor=4, mode="bilinear")
        torch.testing.assert_close(terms, FramerLoss()({"layer": large}, teacher))

    @pytest.mark.parametrize("size", [(4, 6), (5, 6), (16, 24), (4, 24), (8, 12), (1, 1)], ids=str)
    def test_resize(self, size):
        x = torch.randn(1, 2, 8, 12)
        assert resize(x, size).shape == (1, 2, *size)
        torch.testing.assert_close(resize(torch.ones_like(x), size), torch.ones(1, 2, *size))
        if size == (8, 12):
            assert resize(x, size) is x

    @pytest.mark.parametrize("channels", [3, 8, 20])
    def test_projection(self, channels):
        x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
        y = project(x, channels)
        assert y.shape == (2, channels, 4, 4)
        assert torch.equal(y, project(x, channels))
        basis = project(torch.eye(8, dtype=torch.float64)[..., None, None], channels)[..., 0, 0]
        gram = basis.T @ basis if channels < 8 else basis @ basis.T
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=gram.dtype), rtol=0, atol=1e-6)

    def test_other_channels_are_projected(self):
        student, teacher = torch.randn(2, 8, 6, 6), torch.randn(2, 4, 6, 6)
        terms = FramerLoss()({"layer": student}, teacher)
        torch.testing.assert_close(terms, FramerLoss()({"layer": project(student, 4)}, teacher))

    def test_projection_outlives_no_trace(self):
        from torch._subclasses import FakeTensorMode

        with FakeTensorMode():
            project(torch.randn(1, 3, 2, 2), 5)
        assert project(torch.randn(1, 3, 2, 2), 5).isfinite().all()

    def test_projection_does_not_follow_the_default_dtype(self):
        expected = orthogonal.__wrapped__(3, 5)
        torch.set_default_dtype(torch.float64)
        try:
            assert torch.equal(orthogonal.__wrapped__(3, 5), expected)
        finally:
            torch.set_default_dtype(torch.float32)

    def test_connectors_begin_as_the_projection(self):
        x = torch.randn(2, 8, 6, 6)
        connectors = Connectors({"a.b": (8, 4)})
        students = connectors({"a.b": x, "c": x})
        torch.testing.assert_close(students["a.b"], project(x, 4))
        assert students["c"] is x
        assert [p.shape for p in connectors.parameters()] == [(4, 8, 1, 1)]
        assert all(p.requires_grad for p in connectors.parameters())


class TestErrors:
    @pytest.mark.parametrize(
        "arguments, message",
        [
            (dict(cutoff=2), "cutoff must be a number from 0 to 1, got 2"),
            (dict(tau=0), "tau must be .* got 0"),
            (dict(loss_weight=-1), "loss_weight must be .* got -1"),
            (dict(fam_floor=1.5), "fam_floor must be a number from 0 to 1, got 1.5"),
            (dict(match="both"), "match must be 'student' or 'teacher', got 'both'"),
            (dict(mask="round"), "mask must be .* got 'round'"),
            (dict(domain="phase"), "domain must be 'spatial' or 'magnitude', got 'phase'"),
        ],
        ids=str,
    )
    def test_options(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            FramerLoss(**arguments)

    def test_maps(self):
        x = torch.zeros(2, 4, 4, 4)
        with pytest.raises(ValueError, match="students must have a layer at least, got none"):
            FramerLoss()({}, x)
        with pytest.raises(ValueError, match=r"teacher must be a map .* got shape \(2, 4\)"):
            FramerLoss()({"a": x}, x[..., 0, 0])
        with pytest.raises(ValueError, match=r"backbone.a must be a map .* got shape \(2, 4\)"):
            FramerLoss()({"backbone.a": x[..., 0, 0]}, x)

    def test_connectors(self):
        with pytest.raises(ValueError, match="connectors must have .* got 8 for 'a'"):
            Connectors({"a": 8})
        with pytest.raises(ValueError, match=r"connectors\['a'\] must be a positive .* got 0"):
            Connectors({"a": (8, 0)})


# Two processes


class Layers(nn.Module):
    """A model with layers of different sizes and channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.neck = Neck()

    def forward(self, x):
        return self.neck(self.stem(x).tanh())


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        self.coarse = nn.Conv2d(8, 4, 3, stride=2, padding=1)
        self.fine = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x):
        return self.fine(x), self.coarse(x)


def framer_model(**options):
    torch.manual_seed(0)
    return FramerModel(
        Layers().double(),
        students=["stem", "neck[1]"],
        teacher="neck[0]",
        criterion=FramerLoss(fam_floor=0.1, loss_weight=1.0, **options),
        connectors={"stem": (8, 4)},
    ).double()


def distillation_gradients(wrap, images):
    framer = framer_model()
    model = wrap(framer)
    output = model(images)
    loss = sum(level.square().mean() for level in output) + framer.loss()
    loss.backward()
    return {name: p.grad for name, p in framer.named_parameters()}, framer.terms


def joint_images():
    return torch.randn(
        4, 3, 12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


def distil_one_of_two(rank, folder):
    mine = joint_images()[2 * rank : 2 * rank + 2]
    gradients, terms = distillation_gradients(DistributedDataParallel, mine)
    losses = uneven_losses([slice(3), slice(3, 5)][rank])
    with pytest.raises(ValueError, match=r"gather must be False .*\(2, 4, 2\), \(2, 4, 3\)"):
        x = torch.randn(2, 4, 2 + rank)
        InterContrastiveLoss()(x, x)
    x = torch.randn(2, 4, 2 + rank)
    InterContrastiveLoss(gather=False)(x, x)
    trained = train_in_openmmlab(rank) if HAS_OPENMMLAB else None
    torch.save((gradients, terms, losses, trained), folder / f"{rank}.pt")


def uneven_losses(images):
    generator = torch.Generator().manual_seed(1)
    student, teacher, other = torch.randn(3, 5, 4, 3, 3, generator=generator)
    return InterContrastiveLoss(0.5)(student[images], teacher[images], other[images])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of two processes has found."""
    folder = tmp_path_factory.mktemp("processes")
    in_two_processes(distil_one_of_two, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


class TestTwoProcesses:
    """What one process does with all images, two do with shares of them."""

    def test_gradients_of_ddp_are_those_of_the_joint_batch(self, results):
        expected, terms = distillation_gradients(lambda model: model, joint_images())
        (first, first_terms, *_), (second, second_terms, *_) = results
        for name, gradient in expected.items():
            assert gradient.abs().max() > 1e-6
            torch.testing.assert_close(first[name], gradient)
            torch.testing.assert_close(second[name], gradient)
        for name, value in terms.items():
            torch.testing.assert_close((first_terms[name] + second_terms[name]) / 2, value)

    def test_negatives_of_processes_matter(self):
        alone = [uneven_losses(slice(3)), uneven_losses(slice(3, 5))]
        assert (uneven_losses(slice(None)) - torch.cat(alone)).abs().min() > 1e-3

    def test_different_numbers_of_images(self, results):
        found = torch.cat([losses for _, _, losses, _ in results])
        torch.testing.assert_close(found, uneven_losses(slice(None)))

    @pytest.mark.skipif(not HAS_OPENMMLAB, reason="mmengine or mmcv is not installed")
    def test_hook_under_ddp(self, results):
        expected = train_in_openmmlab()
        for *_, found in results:
            torch.testing.assert_close(found, expected)


class TestFramerModel:
    def test_trains_and_returns_what_the_model_returns(self):
        framer = framer_model()
        x = joint_images()
        output = framer(x)
        torch.testing.assert_close(output, framer.model(x))
        loss = framer.loss()
        loss.backward()
        assert loss > 0 and framer.connectors[0].weight.grad.abs().sum() > 0
        assert framer.model.neck.fine.weight.grad is None  # the teacher
        assert framer.terms["loss"] == loss and not framer.terms["loss"].requires_grad
        assert {"stem/low", "neck[1]/high"} < set(framer.terms)

    def test_learns(self):
        framer = framer_model()
        x = joint_images()
        optimizer = torch.optim.Adam(framer.parameters(), lr=0.01)
        history = []
        for _ in range(30):
            framer(x)
            optimizer.zero_grad()
            framer.loss().backward()
            optimizer.step()
            history.append(framer.terms)
        for name in ("stem/low", "stem/high", "neck[1]/low", "neck[1]/high"):
            assert history[-1][name] > history[0][name] + 0.1, name

    def test_nothing_is_left_in_the_model(self):
        framer = framer_model()
        keys = list(Layers().state_dict())
        framer(joint_images())
        assert list(framer.model.state_dict()) == keys
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in framer.modules())
        framer.eval()
        framer.loss()
        framer(joint_images())
        with pytest.raises(RuntimeError, match="loss must follow a call in training mode"):
            framer.loss()

    def test_a_copy_is_on_its_own(self):
        framer = framer_model()
        twin = copy.deepcopy(framer)
        twin(joint_images())
        twin.loss().backward()
        assert twin.model.stem.weight.grad is not None
        assert framer.model.stem.weight.grad is None

    def test_an_error_leaves_nothing(self):
        framer = framer_model()
        with pytest.raises(RuntimeError):
            framer(torch.zeros(1, 2, 4, 4, dtype=torch.float64))
        assert not any(m._forward_hooks for m in framer.modules())

    def test_without_weight_connectors_get_zeros(self):
        """Distributed training waits for the gradients of all parameters."""
        framer = framer_model()
        framer.criterion.loss_weight = 0
        output = framer(joint_images())
        (sum(level.mean() for level in output) + framer.loss()).backward()
        assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in framer.connectors.parameters())

    def test_layers_that_cannot_learn(self):
        framer = framer_model()
        framer.model.stem.requires_grad_(False)
        framer(joint_images())
        with pytest.raises(RuntimeError, match="'stem' cannot learn: it is frozen"):
            framer.loss()

    def test_layers_that_do_not_run(self):
        model = Layers().double()
        model.unused = nn.Conv2d(3, 4, 1)
        framer = FramerModel(model, ["unused"], "neck[0]")
        framer(joint_images())
        with pytest.raises(RuntimeError, match="layer 'unused' did not run"):
            framer.loss()

    @pytest.mark.parametrize(
        "students, options, message",
        [
            ([], {}, r"students must be different layers, .* got \(\)"),
            (["stem", "stem"], {}, r"students must be different .* got \('stem', 'stem'\)"),
            (["stem", "neck[0]"], {}, r"without the teacher 'neck\[0\]'"),
            (["stam"], {}, "no module 'stam'.*mean 'stem'"),
            (["stem"], dict(connectors={"neck": (1, 2)}), "must be of .* stem, got 'neck'"),
        ],
    )
    def test_errors(self, students, options, message):
        with pytest.raises(ValueError, match=message):
            FramerModel(Layers(), students, "neck[0]", **options)


# MMEngine

STUDENTS = ["layers.stem", "layers.neck[1]", "layers.neck.coarse:in[0]"]
HOOK = dict(
    type="FramerHook", students=STUDENTS, teacher="layers.neck[0]", fam_floor=0.2, loss_weight=1.0
)
RUNS = itertools.count()
openmmlab = pytest.mark.skipif(not HAS_OPENMMLAB, reason="mmengine or mmcv is not installed")


def registered_model():
    """The config of a tiny model."""
    from mmengine.evaluator import BaseMetric
    from mmengine.model import BaseModel
    from mmengine.registry import METRICS, MODELS

    import freqfusion.integrations.openmmlab  # noqa: F401

    @MODELS.register_module(force=True)
    class TinyModel(BaseModel):
        def __init__(self, fails=False):
            super().__init__()
            self.layers, self.fails, self.calls = Layers(), fails, []

        def forward(self, inputs, data_samples=None, mode="tensor"):
            output = self.layers(torch.stack(inputs))
            self.calls.append((mode, hooks(self)))
            if self.fails:
                raise ArithmeticError("in the middle")
            if mode == "predict":
                return data_samples
            energies = [level.square().mean((1, 2, 3)) for level in output]
            return {"loss_task": sum((energy - 1).square().mean() for energy in energies)}

    @METRICS.register_module(force=True)
    class TinyMetric(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results.append(len(data_samples))

        def compute_metrics(self, results):
            return dict(images=sum(results))

    return dict(type="TinyModel")


def hooks(model):
    """How many changes of a model there are."""
    count = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return count + ("forward" in vars(model))


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(inputs=torch.randn(3, 12, 10, generator=generator), data_samples=index)


def make_runner(folder, steps=4, hook=HOOK, model=None, extra_hooks=(), **settings):
    from mmengine.runner import Runner

    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=Images(),
        sampler=dict(type="InfiniteSampler", shuffle=False),
        collate_fn=dict(type="pseudo_collate"),
    )
    optimizer = dict(type="SGD", lr=0.1, momentum=0.9)
    return Runner(
        model={**registered_model(), **(model or {})},
        work_dir=str(folder),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=steps, val_interval=2),
        val_dataloader={**loader, "sampler": dict(type="DefaultSampler", shuffle=False)},
        val_cfg=dict(),
        val_evaluator=dict(type="TinyMetric"),
        optim_wrapper={"type": "OptimWrapper", "optimizer": optimizer, **settings.pop("optim", {})},
        custom_hooks=[*([hook] if hook else []), *extra_hooks],
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=1),
            checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=steps),
        ),
        log_level="ERROR",
        experiment_name=f"framer-{next(RUNS)}",
        randomness=dict(seed=0),
        **settings,
    )


def logged(runner, name):
    return list(runner.message_hub.log_scalars[f"train/{name}"].data[0])


def weights(folder, steps=4):
    return torch.load(folder / f"iter_{steps}.pth", weights_only=False)["state_dict"]


def train(folder, *args, **kwargs):
    runner = make_runner(folder, *args, **kwargs)
    runner.train()
    return runner


def train_in_openmmlab(rank=None):
    """Parameters after steps of training, of one process with all images or of one of two."""
    from mmengine.model import MMDistributedDataParallel
    from mmengine.optim import OptimWrapper
    from mmengine.registry import HOOKS, MODELS

    config = registered_model()
    torch.manual_seed(0)
    model = MODELS.build(
        dict(type="FramerModelWrapper", model=config, connectors={"layers.stem": (8, 4)})
    ).double()
    hook = HOOKS.build(HOOK)
    images = list(joint_images())[slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)]
    wrapped = model if rank is None else MMDistributedDataParallel(model)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    runner = SimpleNamespace(model=wrapped, iter=0, hooks=[hook])
    hook.before_train(runner)
    for runner.iter in range(4):
        hook.before_train_iter(runner, runner.iter)
        outputs = wrapped.train_step(dict(inputs=images), optimizer)
        hook.after_train_iter(runner, runner.iter, outputs=outputs)
        assert outputs["loss"] == outputs["loss_task"] + outputs["framer/loss"]
    assert hooks(model) == 0
    return dict(model.named_parameters())


@openmmlab
class TestFramerHook:
    def test_loss_is_summed_and_everything_logged(self, tmp_path):
        runner = train(tmp_path)
        sums = zip(*(logged(runner, n) for n in ("loss", "loss_task", "framer/loss")), strict=True)
        for total, task, framer in sums:
            assert framer > 0
            assert total == pytest.approx(task + framer, rel=1e-6)
        for student in STUDENTS:
            for term in ("low", "high", "intra", "inter"):
                assert len(logged(runner, f"framer/{student}/{term}")) == 4

    def test_nothing_is_left(self, tmp_path):
        plain = train(tmp_path / "plain", hook=None)
        runner = train(tmp_path / "framer")
        assert hooks(runner.model) == hooks(plain.model) == 0
        assert vars(runner.model).keys() == vars(plain.model).keys()
        calls = runner.model.calls
        assert [mode for mode, _ in calls] == 2 * (["loss"] * 2 + ["predict"] * 3)
        assert all(not changes for mode, changes in calls if mode == "predict")
        assert all(changes for mode, changes in calls if mode == "loss")
        ours, theirs = weights(tmp_path / "framer"), weights(tmp_path / "plain")
        assert list(ours) == list(theirs)
        assert not torch.equal(ours["layers.stem.weight"], theirs["layers.stem.weight"])

    def test_without_weight_the_training_is_the_plain_one(self, tmp_path):
        train(tmp_path / "plain", hook=None)
        runner = train(tmp_path / "framer", hook={**HOOK, "loss_weight": 0})
        assert logged(runner, "framer/loss") == [0] * 4
        assert all(logged(runner, "framer/layers.stem/inter"))
        theirs = weights(tmp_path / "plain")
        assert all(torch.equal(x, theirs[name]) for name, x in weights(tmp_path / "framer").items())

    def test_mixed_precision_and_accumulation(self, tmp_path):
        """One update from two batches is what it is without MMEngine."""
        optim = dict(type="CPUAmpOptimWrapper", accumulative_counts=2)
        optim["optimizer"] = dict(type="SGD", lr=0.1)
        hook = {**HOOK, "students": STUDENTS[:2]}
        runner = make_runner(tmp_path, steps=2, hook=hook, optim=optim)
        framer = FramerModel(
            copy.deepcopy(runner.model),
            STUDENTS[:2],
            "layers.neck[0]",
            FramerLoss(fam_floor=0.2, loss_weight=1.0),
        )
        optimizer = torch.optim.SGD(framer.parameters(), lr=0.1)
        before = [p.detach().clone() for p in framer.parameters()]
        for batch in ((0, 1), (2, 3)):
            images = [Images()[i]["inputs"] for i in batch]
            with torch.autocast("cpu", torch.bfloat16):
                losses = framer(images, mode="loss")
            ((losses["loss_task"] + framer.loss()) / 2).backward()
        optimizer.step()
        runner.train()
        for start, ours, theirs in zip(
            before, runner.model.parameters(), framer.parameters(), strict=True
        ):
            assert (start - theirs).abs().max() > 1e-4
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)

    def test_resumed_training_ends_the_same(self, tmp_path):
        expected = train(tmp_path / "whole", steps=6)
        train(tmp_path / "half", steps=4)
        runner = make_runner(tmp_path / "half", steps=6, resume=True)
        runner.train()
        assert logged(runner, "framer/loss") == logged(expected, "framer/loss")
        assert len(logged(runner, "framer/loss")) == 6
        for ours, theirs in zip(
            runner.model.parameters(), expected.model.parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)

    def test_an_error_in_the_model_leaves_nothing(self, tmp_path):
        runner = make_runner(tmp_path, model=dict(fails=True))
        with pytest.raises(ArithmeticError, match="in the middle"):
            runner.train()
        assert runner.model.calls == [("loss", len(STUDENTS) + 2)]
        assert hooks(runner.model) == 0

    def test_a_model_that_does_not_return_losses(self, tmp_path):
        runner = make_runner(tmp_path)
        runner.model.train_step = lambda data, optim_wrapper: {}
        with pytest.raises(RuntimeError, match="mode='loss', TinyModel is not"):
            runner.train()
        assert hooks(runner.model) == 0

    def test_unknown_layer(self, tmp_path):
        hook = dict(type="FramerHook", students=["layers.stam"], teacher="layers.neck[0]")
        with pytest.raises(ValueError, match="no module 'layers.stam'.*mean 'layers.stem'"):
            train(tmp_path, hook=hook)

    def test_one_is_enough(self, tmp_path):
        with pytest.raises(ValueError, match="must have one FramerHook .* got several"):
            train(tmp_path, extra_hooks=[HOOK])

    @pytest.mark.parametrize(
        "options, error, message",
        [
            (dict(students=["losses"]), ValueError, "must not have 'loss' .* got .*'losses'"),
            (dict(students=[]), ValueError, "students must be different layers"),
            (dict(tau=-1), ValueError, "tau must be .* got -1"),
            (dict(temperature=1), TypeError, "unexpected keyword argument 'temperature'"),
        ],
        ids=str,
    )
    def test_errors(self, options, error, message):
        from freqfusion.integrations.openmmlab import FramerHook

        with pytest.raises(error, match=message):
            FramerHook(**{"students": ["a"], "teacher": "b", **options})


@openmmlab
class TestFramerModelWrapper:
    CONNECTORS = {"layers.stem": (8, 4)}

    def config(self):
        return dict(type="FramerModelWrapper", model=registered_model(), connectors=self.CONNECTORS)

    def test_connectors_are_trained(self, tmp_path):
        runner = train(tmp_path, model=self.config())
        connector = runner.model.framer_connectors[0].weight
        before = Connectors(self.CONNECTORS)[0].weight
        assert (connector - before).abs().max() > 1e-3
        assert type(runner.model).__name__ == "TinyModel"
        assert runner.model.calls[-1][0] == "predict"

    def test_checkpoint_has_the_keys_of_the_plain_model(self, tmp_path):
        train(tmp_path / "plain", hook=None)
        runner = train(tmp_path / "framer", model=self.config())
        assert list(weights(tmp_path / "framer")) == list(weights(tmp_path / "plain"))
        plain = make_runner(tmp_path / "plain", hook=None).model
        plain.load_state_dict(weights(tmp_path / "framer"))  # strictly
        images = [Images()[0]["inputs"]]
        torch.testing.assert_close(plain(images), runner.model(images))

    @pytest.mark.parametrize("ema", [False, True])
    def test_resumed_training_ends_the_same(self, ema, tmp_path):
        extra = [dict(type="EMAHook")] if ema else []
        settings = dict(model=self.config(), extra_hooks=extra)
        expected = train(tmp_path / "whole", steps=6, **settings)
        train(tmp_path / "half", steps=4, **settings)
        runner = make_runner(tmp_path / "half", steps=6, resume=True, **settings)
        runner.train()
        names = [name for name, _ in runner.model.named_parameters()]
        assert "framer_connectors.0.weight" in names
        for name, ours, theirs in zip(
            names, runner.model.parameters(), expected.model.parameters(), strict=True
        ):
            assert torch.equal(ours, theirs), name
        ours, theirs = (weights(tmp_path / folder, steps=6) for folder in ("half", "whole"))
        assert list(ours) == list(theirs) == list(Layers().state_dict(prefix="layers."))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    def test_begins_with_the_weights_of_a_plain_model(self, tmp_path):
        train(tmp_path / "plain", hook=None)
        checkpoint = str(tmp_path / "plain" / "iter_4.pth")
        runner = make_runner(tmp_path / "framer", model=self.config(), load_from=checkpoint)
        runner.load_or_resume()
        expected = weights(tmp_path / "plain")
        assert all(torch.equal(x, runner.model.state_dict()[n]) for n, x in expected.items())

    def test_connectors_of_others(self, tmp_path):
        hook = dict(type="FramerHook", students=["layers.neck[1]"], teacher="layers.neck[0]")
        with pytest.raises(ValueError, match=r"must be of .* layers.neck\[1\], got 'layers.stem'"):
            train(tmp_path, model=self.config(), hook=hook)


@pytest.mark.skipif(not importlib.util.find_spec("mmseg"), reason="mmseg is not installed")
class TestConfig:
    NAME = "fpn-freqfusion{}_r18_1xb4-800_scenes-128x256.py"

    def test_is_the_plain_one_with_a_hook_that_fits(self):
        from mmengine.config import Config
        from mmengine.registry import HOOKS, MODELS, DefaultScope

        folder = ROOT / "mm_configs" / "scenes"
        framer, plain = (
            Config.fromfile(folder / self.NAME.format(part)).to_dict() for part in ("-framer", "")
        )
        (config,) = framer.pop("custom_hooks")
        assert framer == plain
        with DefaultScope.overwrite_default_scope("mmseg"):
            model = MODELS.build(framer["model"])
            hook = HOOKS.build(config)
        hook.before_train(SimpleNamespace(model=model, hooks=[hook]))
        with hook._recorder as recorder:
            model(torch.randn(1, 3, 64, 64), mode="tensor")
            maps = dict(recorder.features)
        assert {x.shape[1] for x in maps.values()} == {64}
        sizes = [maps[name].shape[2] for name in (hook.teacher, *hook.students)]
        assert sizes == [16, 8, 4, 2]
