"""Box operators by loops in float64, from their definitions."""

from __future__ import annotations

import math

import numpy as np


def iou_matrix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return intersection over union of every box of ``first`` with every one of ``second`` (x1, y1, x2, y2)."""
    overlap, union, _ = _areas(first, second)
    return overlap / union


def generalized_iou_matrix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return IoU less the share of the smallest box around both that neither fills (Rezatofighi et al., 2019)."""
    overlap, union, hull = _areas(first, second)
    return overlap / union - (hull - union) / hull


def _areas(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for every pair, the area of the intersection, of the union, and of the smallest box around both."""
    a, b = first[:, None], second[None, :]
    overlap = np.clip(np.minimum(a, b)[..., 2:] - np.maximum(a, b)[..., :2], 0, None).prod(axis=-1)
    hull = (np.maximum(a, b)[..., 2:] - np.minimum(a, b)[..., :2]).prod(axis=-1)
    own = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) for boxes in (a, b)]
    return overlap, own[0] + own[1] - overlap, hull


def greedy_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Return the boxes kept, best first: each removes the lower-scored ones that overlap it by more than threshold."""
    overlaps = iou_matrix(boxes, boxes)
    kept: list[int] = []
    for candidate in np.argsort(-scores):
        if all(overlaps[candidate, winner] <= threshold for winner in kept):
            kept.append(int(candidate))
    return kept


def roi_align(
    images: np.ndarray, rois: np.ndarray, size: tuple[int, int], scale: float, samples: int, aligned: bool
) -> np.ndarray:
    """Return the mean of ``samples`` x ``samples`` bilinear samples in each bin of each region (He et al., 2017).

    A region is (image, x1, y1, x2, y2); with ``aligned`` pixel centres lie at half-integers, without it a region is at
    least one pixel wide and high.
    """
    height, width = size
    result = np.zeros((len(rois), images.shape[1], height, width))
    for n, (image, *corners) in enumerate(rois):
        x1, y1, x2, y2 = np.array(corners) * scale - (0.5 if aligned else 0.0)
        bin_w = (x2 - x1 if aligned else max(x2 - x1, 1.0)) / width
        bin_h = (y2 - y1 if aligned else max(y2 - y1, 1.0)) / height
        for i in range(height):
            for j in range(width):
                points = [
                    (y1 + (i + (a + 0.5) / samples) * bin_h, x1 + (j + (b + 0.5) / samples) * bin_w)
                    for a in range(samples)
                    for b in range(samples)
                ]
                result[n, :, i, j] = np.mean([_bilinear(images[int(image)], *point) for point in points], axis=0)
    return result


def _bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    _, height, width = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(image))
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = image[:, top, left] * (1 - across) + image[:, top, right] * across
    lower = image[:, bottom, left] * (1 - across) + image[:, bottom, right] * across
    return upper * (1 - down) + lower * down
