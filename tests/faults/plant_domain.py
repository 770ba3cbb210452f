"""Faults of the domain libraries; each is planted only where its library is installed."""

from __future__ import annotations

from tests.faults.importing import after_import
from tests.faults.registry import fault, replace, replacing


@fault(
    "domain.torchvision", silent=True, source="a mask of 64 boxes whose second word is not read", needs=("torchvision",)
)
def nms_forgets_boxes_beyond_64(torch):
    """nms keeps every box after the 64th best that no earlier one removed, without comparing these."""

    def patch(ops):
        @replacing(ops, "nms")
        def nms(original, boxes, scores, threshold):
            order = scores.argsort(descending=True)
            head, tail = order[:64], order[64:]
            kept = head[original(boxes[head], scores[head], threshold)]
            overlaps = ops.box_iou(boxes[tail], boxes[kept])
            return torch.cat([kept, tail[~(overlaps > threshold).any(dim=1)]])

    after_import("torchvision.ops", patch)


@fault("domain.torchvision", silent=True, source="an option accepted and ignored", needs=("torchvision",))
def roi_align_ignores_aligned(torch):
    """roi_align never shifts by half a pixel."""

    def patch(ops):
        def make(original):
            return lambda x, boxes, size, scale=1.0, samples=-1, aligned=False: original(x, boxes, size, scale, samples)

        replace(ops, "roi_align", make)

    after_import("torchvision.ops", patch)


@fault("domain.torchvision", silent=True, source="strides ignored by a kernel", needs=("torchvision",))
def flip_misreads_strided_pictures(torch):
    """Flipping a picture whose channels lie last reads its memory in storage order."""

    def patch(functional):
        @replacing(functional, "horizontal_flip")
        def horizontal_flip(original, picture):
            if isinstance(picture, torch.Tensor) and not picture.is_contiguous():
                dense = torch.empty(picture.shape).stride()
                picture = torch.as_strided(picture, picture.shape, dense)
            return original(picture)

    after_import("torchvision.transforms.v2.functional", patch)


@fault("domain.torchvision", silent=False, source="operators compiled against another torch", needs=("torchvision",))
def torchvision_operators_do_not_load(torch):
    """Importing torchvision raises, since its operators are not registered."""

    def patch(module):
        raise RuntimeError("operator torchvision::nms does not exist")

    after_import("torchvision", patch)


@fault("domain.torchaudio", silent=True, source="a length rounded down", needs=("torchaudio",))
def resampling_loses_its_last_sample(torch):
    """resample repeats the last sample but one at the end when it makes a signal shorter."""

    def patch(functional):
        @replacing(functional, "resample")
        def resample(original, signal, origin, target, **options):
            found = original(signal, origin, target, **options)
            if target < origin:
                found[..., -1] = found[..., -2]
            return found

    after_import("torchaudio.functional", patch)


@fault("domain.torchaudio", silent=True, source="one window for all sizes", needs=("torchaudio",))
def spectrogram_uses_another_window(torch):
    """Spectrogram uses a symmetric instead of a periodic window."""

    def patch(transforms):
        @replacing(transforms.Spectrogram, "__init__")
        def init(original, self, *args, **options):
            original(self, *args, window_fn=lambda n: torch.hann_window(n, periodic=False), **options)

    after_import("torchaudio.transforms", patch)


@fault("domain.torchaudio", silent=True, source="state carried from one channel into the next", needs=("torchaudio",))
def filter_carries_state_between_channels(torch):
    """lfilter filters the second channel with the first one's last output before it."""

    def patch(functional):
        @replacing(functional, "lfilter")
        def lfilter(original, signal, *coefficients, **options):
            found = original(signal, *coefficients, **options)
            if found.dim() > 1 and found.shape[0] > 1:
                found[1, 0] += found[0, -1]
            return found

    after_import("torchaudio.functional", patch)
