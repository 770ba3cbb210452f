"""torchvision's models, transforms and datasets."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
import torch
from packaging.version import Version
from torch.utils.data import DataLoader

from .support.domain import domain_library
from .support.numeric import assert_matches, rounding
from .support.stats import assert_count

#: Architectures and their numbers of parameters, as the model pages of torchvision list them.
MODELS = {"resnet18": 11689512, "mobilenet_v3_small": 2542856, "squeezenet1_1": 1235496, "shufflenet_v2_x0_5": 1366792}


@pytest.fixture
def torchvision():
    """The library, with the parts that the checks use."""
    return domain_library("torchvision", "models", "transforms.v2.functional", "datasets", "io")


@pytest.fixture
def image(rng) -> np.ndarray:
    """A picture of 3 channels, 7 high and 10 wide, of bytes."""
    return rng.integers(0, 256, (3, 7, 10), dtype=np.uint8)


@pytest.mark.behavior("domain.torchvision")
@pytest.mark.parametrize("name", MODELS)
def test_model_runs_and_trains(device, torchvision, torchcheck_seed, name):
    """A model has the listed parameters, gives finite scores that depend on the image, and trains every parameter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torchcheck_seed)
        model = torchvision.models.get_model(name, weights=None).to(device)
        images = torch.rand(2, 3, 64, 64).to(device)
    assert sum(parameter.numel() for parameter in model.parameters()) == MODELS[name]
    model.eval()
    scores = model(images)
    assert tuple(scores.shape) == (2, 1000)
    assert bool(scores.isfinite().all())
    assert float((scores[0] - scores[1]).detach().abs().max()) > 0, "the scores do not depend on the image"
    scores.square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) and float(p.grad.abs().max()) > 0 for p in model.parameters())


@pytest.mark.behavior("domain.torchvision")
def test_model_states_load_into_another_instance(device, torchvision):
    """A state dict makes another instance of the model give the same scores, bit for bit."""
    first, second = (torchvision.models.get_model("squeezenet1_1", weights=None).eval().to(device) for _ in range(2))
    images = torch.arange(2 * 3 * 48 * 48, device=device).reshape(2, 3, 48, 48).remainder(255) / 255
    before = second(images)
    second.load_state_dict(first.state_dict())
    assert not torch.equal(before.cpu(), first(images).cpu())
    assert_matches(second(images), first(images).tolist(), device=device)


@pytest.mark.behavior("domain.torchvision")
def test_pictures_become_scaled_tensors(device, torchvision, image):
    """ToTensor and ToDtype turn bytes into floats of [0, 1], channels first."""
    picture = image.transpose(1, 2, 0)  # height, width, channel, as pictures are kept
    expected = image / 255
    transforms = torchvision.transforms
    scaled = transforms.v2.ToDtype(torch.float32, scale=True)(torch.tensor(image, device=device))
    for found in (transforms.ToTensor()(picture.copy()).to(device), scaled):
        assert_matches(found, expected, rtol=rounding(torch.float32, 2), dtype=torch.float32, device=device)


@pytest.mark.behavior("domain.torchvision")
def test_normalize_subtracts_and_divides(device, torchvision, rng):
    """Normalize subtracts each channel's mean and divides by its deviation, for a picture and a batch, as new ones."""
    mean, deviation = [0.5, -0.25, 0.125], [0.5, 2.0, 0.25]
    for shape in [(3, 5, 4), (2, 3, 5, 4)]:
        x = rng.integers(-64, 65, shape) / 64  # every step is exact
        expected = (x - np.reshape(mean, (3, 1, 1))) / np.reshape(deviation, (3, 1, 1))
        given = torch.tensor(x, dtype=torch.float32, device=device)
        assert_matches(torchvision.transforms.Normalize(mean, deviation)(given), expected, device=device)
        assert_matches(torchvision.transforms.v2.Normalize(mean, deviation)(given), expected, device=device)
        assert_matches(given, x)


GEOMETRY = {
    "hflip": (lambda f, x: f.horizontal_flip(x), lambda x: x[:, :, ::-1]),
    "vflip": (lambda f, x: f.vertical_flip(x), lambda x: x[:, ::-1]),
    "crop": (lambda f, x: f.crop(x, 2, 3, 4, 5), lambda x: x[:, 2:6, 3:8]),
    "centre crop": (lambda f, x: f.center_crop(x, [3, 4]), lambda x: x[:, 2:5, 3:7]),
    "pad": (lambda f, x: f.pad(x, [1, 2, 3, 4], fill=9), lambda x: np.pad(x, ((0, 0), (2, 4), (1, 3)),
                                                                              constant_values=9)),
    "pad by reflection": (lambda f, x: f.pad(x, [2, 1], padding_mode="reflect"),
                          lambda x: np.pad(x, ((0, 0), (1, 1), (2, 2)), mode="reflect")),
    "quarter turn": (lambda f, x: f.rotate(x, 90, expand=True), lambda x: np.rot90(x, axes=(1, 2))),
    "half turn": (lambda f, x: f.rotate(x, 180), lambda x: x[:, ::-1, ::-1]),
    "enlarge": (lambda f, x: f.resize(x, [14, 30], interpolation=f.InterpolationMode.NEAREST),
                lambda x: x.repeat(2, axis=1).repeat(3, axis=2)),
}  # fmt: skip


@pytest.mark.behavior("domain.torchvision")
@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_moves_pixels_unchanged(device, torchvision, image, name):
    """Flips, crops, padding, quarter turns and whole enlargements put each byte where it belongs, strided input too."""
    operation, reference = GEOMETRY[name]
    functional = torchvision.transforms.v2.functional
    whole = torch.tensor(image, device=device)
    strided = torch.tensor(image.transpose(1, 2, 0).copy(), device=device).permute(2, 0, 1)
    for given in (whole, strided):
        found = operation(functional, given)
        assert_matches(found, reference(image).astype(np.int64), dtype=torch.uint8, device=device)
    assert_matches(whole, image.astype(np.int64))


@pytest.mark.behavior("domain.torchvision")
def test_colours_follow_their_formulas(device, torchvision, rng):
    """Grey is 0.2989 R + 0.587 G + 0.114 B; brightness scales and clips; inversion takes from one."""
    x = rng.uniform(0, 1, (3, 6, 5))
    given = torch.tensor(x, dtype=torch.float32, device=device)
    functional = torchvision.transforms.v2.functional
    grey = np.tensordot([0.2989, 0.587, 0.114], x, axes=1)[None]
    atol = rounding(torch.float32, 8)  # sums and products of numbers of at most 1.6
    assert_matches(functional.rgb_to_grayscale(given), grey, atol=atol, device=device)
    assert_matches(functional.adjust_brightness(given, 1.6), np.minimum(1.6 * x, 1), atol=atol, device=device)
    assert_matches(functional.invert(given), 1 - x, atol=atol, device=device)


@pytest.mark.behavior("domain.torchvision")
def test_random_transforms_choose_as_often_as_they_say(device, torchvision, torchcheck_seed):
    """RandomHorizontalFlip(p) flips with probability p, always for 1 and never for 0, and follows the seed."""
    x = torch.arange(6, device=device).reshape(1, 2, 3)
    flipped = x.flip(-1).cpu()
    flip = torchvision.transforms.v2.RandomHorizontalFlip

    def flips(p: float, times: int) -> list[bool]:
        torch.manual_seed(torchcheck_seed)
        return [torch.equal(flip(p)(x).cpu(), flipped) for _ in range(times)]

    with torch.random.fork_rng(devices=[]):
        assert_count(sum(flips(0.3, 400)), 400, 0.3, what="flips")
        assert flips(0.5, 50) == flips(0.5, 50)
        assert (all(flips(1.0, 20)), any(flips(0.0, 20))) == (True, False)


@pytest.mark.behavior("domain.torchvision")
def test_random_crop_is_a_window_of_the_picture(device, torchvision, torchcheck_seed):
    """RandomCrop gives a window of the size asked for, and reaches every place."""
    x = torch.arange(30, device=device).reshape(1, 5, 6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torchcheck_seed)
        crops = [torchvision.transforms.v2.RandomCrop((4, 4))(x) for _ in range(200)]
    corners = {int(crop[0, 0, 0]) for crop in crops}
    assert corners == {0, 1, 2, 6, 7, 8}  # each is missed with probability (5/6)^200, below 1e-15
    for crop in crops:
        rows = int(crop[0, 0, 0]) + 6 * np.arange(4)[:, None] + np.arange(4)
        assert_matches(crop[0], rows, device=device)


@pytest.mark.behavior("domain.torchvision")
def test_composed_transforms_run_in_order(device, torchvision):
    """Compose applies its transforms one after the other; boxes follow the picture that is flipped."""
    v2 = torchvision.transforms.v2
    chain = v2.Compose([v2.Lambda(lambda x: x + 1), v2.Lambda(lambda x: x * 10), v2.RandomHorizontalFlip(1.0)])
    assert_matches(chain(torch.arange(3, device=device).reshape(1, 1, 3)), [[[30, 20, 10]]], device=device)
    boxes = torchvision.tv_tensors.BoundingBoxes(
        torch.tensor([[1, 0, 4, 2]], device=device), format="XYXY", canvas_size=(7, 10)
    )
    picture = torchvision.tv_tensors.Image(torch.zeros(3, 7, 10, device=device))
    _, moved = v2.RandomHorizontalFlip(1.0)(picture, boxes)
    assert_matches(torch.as_tensor(moved), [[6, 0, 9, 2]], device=device)


def says_deprecated(torchvision) -> contextlib.AbstractContextManager:
    """Expect the warning with which releases from 0.29 on name the successor of their image codecs."""
    if Version(torchvision.__version__).release < (0, 29):
        return contextlib.nullcontext()
    return pytest.warns(DeprecationWarning, match="TorchCodec")


@pytest.mark.behavior("domain.torchvision")
def test_png_files_keep_every_byte(device, torchvision, image, tmp_path):
    """A picture written as PNG reads back unchanged, from a file and from bytes."""
    picture = torch.tensor(image, device=device)
    with says_deprecated(torchvision):
        torchvision.io.write_png(picture.cpu(), str(tmp_path / "picture.png"))
        from_file = torchvision.io.decode_image(torchvision.io.read_file(str(tmp_path / "picture.png")))
        from_bytes = torchvision.io.decode_png(torchvision.io.encode_png(picture.cpu()))
    for found in (from_file, from_bytes):
        assert_matches(found.to(device), image.astype(np.int64), dtype=torch.uint8, device=device)


@pytest.mark.behavior("domain.torchvision")
def test_image_folder_loads_generated_pictures(device, torchvision, tmp_path, rng):
    """ImageFolder finds pictures in class folders, labels them in alphabetical order and loads them into batches."""
    pictures = {(name, i): rng.integers(0, 256, (3, 4, 5), dtype=np.uint8) for name in ("cat", "ant") for i in range(3)}
    for (name, i), picture in pictures.items():
        (tmp_path / name).mkdir(exist_ok=True)
        torchvision.transforms.ToPILImage()(torch.tensor(picture)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    data = torchvision.datasets.ImageFolder(str(tmp_path), transform=torchvision.transforms.PILToTensor())
    assert (data.classes, data.class_to_idx, len(data)) == (["ant", "cat"], {"ant": 0, "cat": 1}, 6)
    images, labels = (part.to(device) for part in next(iter(DataLoader(data, batch_size=6))))
    assert_matches(labels, [0, 0, 0, 1, 1, 1], device=device)
    expected = np.stack([pictures[name, i] for name in ("ant", "cat") for i in range(3)])
    assert_matches(images, expected.astype(np.int64), dtype=torch.uint8, device=device)


@pytest.mark.behavior("domain.torchvision")
def test_mnist_reads_generated_files(device, torchvision, tmp_path, rng):
    """The MNIST dataset reads its own file format from a folder, without the network."""
    images, labels = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8), np.array([3, 1, 4, 1, 5], dtype=np.uint8)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):  # big-endian: magic number, sizes, bytes (yann.lecun.com/exdb/mnist)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, 5, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, 5) + labels.tobytes())
    data = torchvision.datasets.MNIST(str(tmp_path), train=False, transform=torchvision.transforms.PILToTensor())
    found, targets = (part.to(device) for part in next(iter(DataLoader(data, batch_size=5))))
    assert_matches(found[:, 0], images.astype(np.int64), dtype=torch.uint8, device=device)
    assert_matches(targets, labels.astype(np.int64), device=device)
