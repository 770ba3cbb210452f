"""torchvision's box operators, against loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .support.boxes import generalized_iou_matrix, greedy_nms, iou_matrix, roi_align
from .support.domain import domain_library
from .support.numeric import assert_matches, rounding


@pytest.fixture
def ops():
    """The module torchvision.ops."""
    return domain_library("torchvision", "ops").ops


def integer_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return boxes with whole corners within 24 x 24, each at least one wide and high; areas are exact."""
    corners = rng.integers(0, 16, (count, 2))
    return np.concatenate([corners, corners + rng.integers(1, 9, (count, 2))], axis=1).astype(np.float64)


@pytest.mark.behavior("domain.torchvision")
@pytest.mark.parametrize("count", [0, 1, 2, 65, 130])
@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_nms_keeps_what_the_greedy_rule_keeps(device, ops, rng, count, threshold):
    """nms keeps the best box, drops those that overlap it by more than the threshold, and goes on, best first."""
    boxes, scores = integer_boxes(rng, count), rng.permutation(count) / 256
    kept = ops.nms(torch.tensor(boxes.reshape(-1, 4), dtype=torch.float32, device=device),
                   torch.tensor(scores, dtype=torch.float32, device=device), threshold)  # fmt: skip
    assert_matches(kept, np.array(greedy_nms(boxes, scores, threshold), dtype=np.int64), device=device)


@pytest.mark.behavior("domain.torchvision")
@pytest.mark.parametrize("layout", ["transposed", "every other row", "unaligned"])
def test_nms_reads_strided_boxes(device, ops, rng, layout):
    """nms gives the same answer for strided boxes and scores, and leaves them as they were."""
    boxes, scores = integer_boxes(rng, 50), rng.permutation(50) / 64
    b = torch.tensor(boxes, dtype=torch.float32, device=device)
    strided = {
        "transposed": lambda x: x.t().contiguous().t(),
        "every other row": lambda x: torch.stack([x, x + 1], dim=1).flatten(0, 1)[::2],
        "unaligned": lambda x: torch.cat([x[:1], x])[1:],
    }[layout]
    s = torch.stack([torch.tensor(scores, dtype=torch.float32, device=device)] * 2, dim=1)[:, 0]
    view = strided(b)
    assert_matches(ops.nms(view, s, 0.5), np.array(greedy_nms(boxes, scores, 0.5)), device=device)
    assert_matches(view, boxes)


@pytest.mark.behavior("domain.torchvision")
def test_batched_nms_separates_categories(device, ops, rng):
    """batched_nms applies the rule within each category, whatever overlaps across categories."""
    boxes, scores, groups = integer_boxes(rng, 60), rng.permutation(60) / 64, rng.integers(0, 3, 60)
    parts = [np.flatnonzero(groups == group) for group in range(3)]
    kept = [part[index] for part in parts for index in greedy_nms(boxes[part], scores[part], 0.25)]
    expected = sorted(kept, key=lambda index: -scores[index])
    found = ops.batched_nms(torch.tensor(boxes, dtype=torch.float32, device=device),
                            torch.tensor(scores, dtype=torch.float32, device=device),
                            torch.tensor(groups, device=device), 0.25)  # fmt: skip
    assert_matches(found, np.array(expected), device=device)


@pytest.mark.behavior("domain.torchvision")
@pytest.mark.parametrize("name", ["box_iou", "generalized_box_iou"])
def test_overlap_of_all_pairs(device, ops, rng, name):
    """box_iou and generalized_box_iou compare every box of one list with every one of the other."""
    first, second = integer_boxes(rng, 17), integer_boxes(rng, 9)
    reference = {"box_iou": iou_matrix, "generalized_box_iou": generalized_iou_matrix}[name]
    found = getattr(ops, name)(*(torch.tensor(x, dtype=torch.float32, device=device) for x in (first, second)))
    # areas are exact integers; a quotient or two and a difference of numbers of at most 1 follow
    assert_matches(found, reference(first, second), atol=rounding(torch.float32, 4), device=device)


@pytest.mark.behavior("domain.torchvision")
def test_box_conversions_and_areas(device, ops, rng):
    """box_convert goes between corner, size and centre forms exactly, box_area and clipping do what they say."""
    boxes = integer_boxes(rng, 20)
    sizes = boxes[:, 2:] - boxes[:, :2]
    forms = {
        "xyxy": boxes,
        "xywh": np.concatenate([boxes[:, :2], sizes], axis=1),
        "cxcywh": np.concatenate([boxes[:, :2] + sizes / 2, sizes], axis=1),
    }
    for start, values in forms.items():
        for end, expected in forms.items():
            given = torch.tensor(values, dtype=torch.float32, device=device)
            assert_matches(ops.box_convert(given, start, end), expected, device=device, what=f"{start} to {end}")
    given = torch.tensor(boxes, dtype=torch.float32, device=device)
    assert_matches(ops.box_area(given), sizes[:, 0] * sizes[:, 1], device=device)
    limits = np.array([12, 10, 12, 10])  # an image 10 high and 12 wide
    assert_matches(ops.clip_boxes_to_image(given, (10, 12)), np.minimum(boxes, limits), device=device)


#: Regions of images of 8 x 9 pixels at half scale: inside, across the border, small, and on the second image.
REGIONS = np.array(
    [[0, 2.3, 1.1, 13.7, 11.9], [0, -5.0, -4.0, 9.0, 7.0], [1, 6.2, 6.6, 7.0, 7.3], [1, 3.0, 2.0, 21.0, 19.0]]
)


@pytest.mark.behavior("domain.torchvision")
@pytest.mark.parametrize("aligned", [False, True], ids=["classic", "aligned"])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_roi_align_averages_bilinear_samples(device, ops, rng, aligned, samples):
    """roi_align averages bilinear samples over each bin, with and without the half-pixel shift."""
    images = rng.uniform(-1, 1, (2, 3, 8, 9))
    dtype = torch.float32 if device.type == "mps" else torch.float64
    found = ops.roi_align(torch.tensor(images, dtype=dtype, device=device),
                          torch.tensor(REGIONS, dtype=dtype, device=device), (3, 2), 0.5, samples, aligned)  # fmt: skip
    # a coordinate below 16 has at most 8 roundings, and a pixel step changes a sample by at most 2; then sums
    atol = rounding(dtype, 16 * 8 * 2 + 20)
    assert_matches(found, roi_align(images, REGIONS, (3, 2), 0.5, samples, aligned), atol=atol, device=device)


@pytest.mark.behavior("domain.torchvision")
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_roi_align_differentiates(device, ops, rng, layout):
    """The gradient of roi_align is its adjoint: <roi_align(x), g> equals <x, gradient> for any x."""
    images, other, g = (
        rng.uniform(-1, 1, (2, 3, 8, 9)),
        rng.uniform(-1, 1, (2, 3, 8, 9)),
        rng.uniform(-1, 1, (4, 3, 2, 2)),
    )
    dtype = torch.float32 if device.type == "mps" else torch.float64
    x = torch.tensor(images, dtype=dtype, device=device)
    if layout == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    out = ops.roi_align(x, torch.tensor(REGIONS, dtype=dtype, device=device), 2, 0.5, 2, True)
    out.backward(torch.tensor(g, dtype=dtype, device=device))
    expected = float((roi_align(other, REGIONS, (2, 2), 0.5, 2, True) * g).sum())
    found = torch.tensor(float((x.grad.cpu() * torch.tensor(other, dtype=dtype)).sum()), dtype=torch.float64)
    # 48 outputs of size below 1, each with the error of the test above, and 432 products to sum
    assert_matches(found, expected, atol=48 * rounding(dtype, 300) + 432 * rounding(dtype, 440))
