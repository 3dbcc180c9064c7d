"""Band-limited textures, one family per category.

A texture is a float32 field of shape ``(h, w)`` with mean 0 and standard deviation 1. Wavelengths
are in pixels whatever the size of the scene, so every resolution is equally rich in detail.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

Shape = tuple[int, int]
Texture = Callable[[np.random.Generator, Shape], np.ndarray]


def grain(rng: np.random.Generator, shape: Shape, wavelength: float) -> np.ndarray:
    """Isotropic band-pass noise: a difference of two Gaussians."""
    sigma = _jitter(rng, wavelength) / 5.72  # this difference peaks at 5.72 sigma
    noise = rng.standard_normal(shape, dtype=np.float32)
    return _standardise(_blur(noise, sigma) - _blur(noise, 1.6 * sigma))


def blobs(rng: np.random.Generator, shape: Shape, wavelength: float, cut: float) -> np.ndarray:
    """Spots with firm edges: `grain` thresholded softly at `cut` standard deviations."""
    return _standardise(np.tanh(4 * (grain(rng, shape, wavelength) - cut)))


def streaks(
    rng: np.random.Generator, shape: Shape, wavelength: float, degrees: float
) -> np.ndarray:
    """Oriented band-pass noise whose waves run along `degrees` (0: vertical streaks)."""
    wavelength, angle = _jitter(rng, wavelength), _tilt(rng, degrees)
    size = 2 * round(1.2 * wavelength) + 1
    kernel = cv2.getGaborKernel(
        (size, size), 0.45 * wavelength, angle, wavelength, 0.5, psi=0, ktype=cv2.CV_32F
    )
    noise = rng.standard_normal(shape, dtype=np.float32)
    return _standardise(cv2.filter2D(noise, -1, kernel - kernel.mean()))


def grating(
    rng: np.random.Generator, shape: Shape, wavelength: float, degrees: float
) -> np.ndarray:
    """A square-ish wave along `degrees` with a slowly wandering phase."""
    return _standardise(np.tanh(2 * np.sin(_phase(rng, shape, wavelength, degrees))))


def checks(rng: np.random.Generator, shape: Shape, wavelength: float, degrees: float) -> np.ndarray:
    """Two crossed waves multiplied: rows and columns of panes."""
    across = np.sin(_phase(rng, shape, wavelength, degrees))
    down = np.sin(_phase(rng, shape, wavelength, degrees + 90))
    return _standardise(np.tanh(4 * across * down))


def ripples(rng: np.random.Generator, shape: Shape, wavelength: float) -> np.ndarray:
    """Rings around a point near the middle."""
    y, x = _coordinates(shape)
    centre_y, centre_x = rng.uniform(0.3, 0.7, 2).astype(np.float32) * shape
    radius = np.hypot(y - centre_y, x - centre_x)
    phase = radius * (2 * np.pi / _jitter(rng, wavelength)) + rng.uniform(0, 2 * np.pi)
    return _standardise(np.sin(phase))


TEXTURES: dict[str, Texture] = {
    "static": partial(grain, wavelength=5),
    "sky": partial(streaks, wavelength=9, degrees=80),
    "road": partial(grain, wavelength=2.6),
    "building": partial(checks, wavelength=9, degrees=0),
    "vegetation": partial(blobs, wavelength=7, cut=0.3),
    "fence": partial(checks, wavelength=4, degrees=45),
    "pole": partial(grating, wavelength=5, degrees=90),
    "traffic sign": partial(ripples, wavelength=4.5),
    "person": partial(streaks, wavelength=4, degrees=0),
    "car": partial(grating, wavelength=5, degrees=60),
    "bicycle": partial(blobs, wavelength=4, cut=-0.8),
}


def _jitter(rng: np.random.Generator, wavelength: float) -> float:
    return wavelength * rng.uniform(0.87, 1.15)


def _tilt(rng: np.random.Generator, degrees: float) -> float:
    return np.deg2rad(degrees + rng.normal(0, 6))


def _coordinates(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    y, x = (np.arange(side, dtype=np.float32) for side in shape)
    return y[:, None], x


def _phase(rng: np.random.Generator, shape: Shape, wavelength: float, degrees: float) -> np.ndarray:
    """Phase of a plane wave that wanders by about a radian every 32 pixels."""
    angle, step = _tilt(rng, degrees), 2 * np.pi / _jitter(rng, wavelength)
    y, x = _coordinates(shape)
    coarse = rng.normal(0, 1, (shape[0] // 32 + 2, shape[1] // 32 + 2)).astype(np.float32)
    wander = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return step * (np.cos(angle) * x + np.sin(angle) * y) + wander + rng.uniform(0, 2 * np.pi)


def _blur(field: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(field, (0, 0), sigma)


def _standardise(field: np.ndarray) -> np.ndarray:
    field = field.astype(np.float32, copy=False)
    return (field - field.mean()) / (field.std() + 1e-3)
