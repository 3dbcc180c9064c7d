"""Argument checks of the public operators."""

from __future__ import annotations

from torch import Tensor
from torch.autograd import forward_ad

PADDING_MODES = ("zeros", "reflect")


def check_odd(name: str, value: int):
    """Raises ValueError unless `value` is an odd positive integer."""
    if not isinstance(value, int) or value < 1 or value % 2 == 0:
        raise ValueError(f"{name} must be an odd positive integer, got {value!r}")


def check_positive(name: str, value: int):
    """Raises ValueError unless `value` is a positive integer."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


def check_choice(name: str, value: str, choices: tuple[str, ...]):
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        *first, last = map(repr, choices)
        raise ValueError(f"{name} must be {', '.join(first)} or {last}, got {value!r}")


def check_map(name: str, value: Tensor):
    """Raises unless `value` is a floating point map (B, C, H, W)."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(value).__name__}")
    if value.dim() != 4:
        raise ValueError(f"{name} must be a map (B, C, H, W), got shape {tuple(value.shape)}")
    if value.shape[2] == 0 or value.shape[3] == 0:
        raise ValueError(f"{name} must have rows and columns, got shape {tuple(value.shape)}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must have a floating point dtype, got {value.dtype}")


def check_same_device(name: str, value: Tensor, other_name: str, other: Tensor):
    """Raises ValueError unless the two tensors are on one device."""
    if value.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name}, {other.device}, got {value.device}"
        )


def check_not_smaller(name: str, value: Tensor, other_name: str, other: Tensor):
    """Raises ValueError if the map `value` has fewer rows or columns than the map `other`."""
    if value.shape[2] < other.shape[2] or value.shape[3] < other.shape[3]:
        raise ValueError(
            f"{name} must have at least the height and width of {other_name}, "
            f"{tuple(other.shape[2:])}, got {tuple(value.shape[2:])}"
        )


def check_no_tangent(name: str, value: Tensor):
    """Raises NotImplementedError under forward-mode differentiation, which operators ignore."""
    if forward_ad.unpack_dual(value).tangent is not None:
        raise NotImplementedError(
            f"{name} must have no tangent: there is no forward-mode derivative (torch.func.jvp, "
            "jacfwd), only the one of backward"
        )


def check_filter(
    x: Tensor,
    weight_name: str,
    weight: Tensor,
    kernel_size: int,
    scale_factor: int | None,
    groups: int,
    padding_mode: str,
):
    """Checks the arguments that the filtering operators have in common."""
    check_map("x", x)
    check_map(weight_name, weight)
    check_same_device(weight_name, weight, "x", x)
    check_no_tangent("x", x)
    check_no_tangent(weight_name, weight)
    check_odd("kernel_size", kernel_size)
    check_choice("padding_mode", padding_mode, PADDING_MODES)
    if not isinstance(groups, int) or groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups must divide the {x.shape[1]} channels of x, got {groups!r}")
    expected = x.shape[0], groups * kernel_size**2
    if weight.shape[0] != expected[0] or weight.shape[1] != expected[1]:
        raise ValueError(
            f"{weight_name} must have shape (batch of x, groups * kernel_size**2, H, W) = "
            f"({expected[0]}, {expected[1]}, H, W), got {tuple(weight.shape)}"
        )
    check_not_smaller(weight_name, weight, "x", x)
    if scale_factor is not None:
        size = x.shape[2] * scale_factor, x.shape[3] * scale_factor
        if weight.shape[2] != size[0] or weight.shape[3] != size[1]:
            raise ValueError(
                f"{weight_name} must be scale_factor = {scale_factor!r} times as large as x, "
                f"{size}, got {tuple(weight.shape[2:])}"
            )


def check_between(name: str, value: float, low: float, high: float):
    """Raises ValueError unless `value` is a number from `low` to `high`."""
    if not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low} to {high}, got {value!r}")
