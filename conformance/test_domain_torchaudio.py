"""torchaudio's transforms, against NumPy and SciPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import torch

from .support.domain import domain_library
from .support.numeric import assert_matches, rounding
from .support.parity import full_precision


@pytest.fixture
def audio():
    """The library, with the parts that the checks use."""
    return domain_library("torchaudio", "functional", "transforms")


def spectrum(signal: np.ndarray, size: int, hop: int) -> np.ndarray:
    """Return the centred, reflected, Hann-windowed short-time Fourier transform, frequencies by frames."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    padded = np.pad(signal, size // 2, mode="reflect")
    frames = [padded[start : start + size] * window for start in range(0, len(signal) + 1, hop)]
    return np.fft.rfft(frames).T


@pytest.mark.behavior("domain.torchaudio")
@pytest.mark.parametrize(("size", "hop"), [(64, 16), (32, 32), (48, 20)])
@pytest.mark.parametrize("power", [1.0, 2.0, None])
def test_spectrogram_is_the_windowed_fourier_transform(device, audio, rng, size, hop, power):
    """Spectrogram gives magnitude, power or complex values of windowed frames, channel by channel."""
    signal = rng.uniform(-1, 1, (2, 300))
    expected = np.stack([spectrum(channel, size, hop) for channel in signal])
    transform = audio.transforms.Spectrogram(n_fft=size, hop_length=hop, power=power).to(device)
    found = transform(torch.tensor(signal, dtype=torch.float32, device=device))
    # an FFT of n terms of size at most 1: error below n (2 + 7 log2 n) u (Higham, section 24.1)
    error = size * rounding(torch.float32, 2 + 7 * math.log2(size))
    atol = error * (2 * np.abs(expected) + 1) if power == 2 else error
    assert_matches(found, expected if power is None else np.abs(expected) ** power, atol=atol, device=device)


@pytest.mark.behavior("domain.torchaudio")
@pytest.mark.parametrize(("origin", "target"), [(4, 3), (3, 4), (16000, 8000), (441, 480), (5, 5)])
def test_resample_is_windowed_sinc_interpolation(device, audio, rng, origin, target):
    """Resampling weighs samples by a Hann-windowed sinc of 6 zero crossings and a rolloff of 0.99."""
    signal = rng.uniform(-1, 1, 120)
    divisor = math.gcd(origin, target)
    old, new = origin // divisor, target // divisor
    cutoff = min(old, new) * 0.99
    places = np.arange(math.ceil(new * len(signal) / old))
    t = np.clip((places[:, None] / new - np.arange(len(signal)) / old) * cutoff, -6, 6)
    weights = np.sinc(t) * np.cos(t * np.pi / 12) ** 2 * cutoff / old
    expected = signal if old == new else weights @ signal
    with full_precision():
        found = audio.functional.resample(torch.tensor(signal, dtype=torch.float32, device=device), origin, target)
    # At most 120 products are summed. Each weight comes from an angle of at most 6 pi, which errs by four roundings of
    # float32, and follows it with a slope below one times its scale.
    angles = rounding(torch.float32, 4) * 6 * np.pi * (weights != 0).sum(axis=1).max() * cutoff / old
    atol = rounding(torch.float32, 160) * np.abs(weights).sum(axis=1).max() + angles if old != new else 2.0**-24
    assert_matches(found, expected, atol=atol, device=device)


@pytest.mark.behavior("domain.torchaudio")
def test_resampling_a_batch_resamples_each_signal(device, audio, rng):
    """Leading dimensions are kept, and the module form agrees with the functional one."""
    signals = torch.tensor(rng.uniform(-1, 1, (2, 3, 80)), dtype=torch.float32, device=device)
    found = audio.transforms.Resample(3, 2).to(device)(signals)
    one = audio.functional.resample(signals[1, 2], 3, 2)
    assert tuple(found.shape) == (2, 3, 54)
    assert_matches(found[1, 2], one.tolist(), atol=rounding(torch.float32, 40), device=device)


@pytest.mark.behavior("domain.torchaudio")
@pytest.mark.parametrize("order", [1, 2, 4])
def test_lfilter_agrees_with_scipy(device, audio, rng, order):
    """lfilter runs the difference equation that scipy.signal.lfilter runs."""
    numerator, denominator = scipy.signal.butter(order, 0.3)
    signal = rng.uniform(-1, 1, (2, 200))
    expected = scipy.signal.lfilter(numerator, denominator, signal)
    dtype = torch.float32 if device.type == "mps" else torch.float64
    tensors = [torch.tensor(x, dtype=dtype, device=device) for x in (signal, denominator, numerator)]
    # a stable filter whose impulse response sums to below 3: errors of 2 * order + 2 roundings a step do not build up
    response = np.abs(scipy.signal.lfilter([1.0], denominator, np.eye(1, 200)[0])).sum()
    atol = rounding(dtype, 2 * order + 4) * response * (np.abs(denominator).sum() + np.abs(numerator).sum())
    assert_matches(audio.functional.lfilter(*tensors, clamp=False), expected, atol=atol, device=device)


@pytest.mark.behavior("domain.torchaudio")
def test_mel_filters_are_triangles_on_the_mel_scale(device, audio):
    """The mel filter bank is made of triangles between points equally spaced in 2595 log10(1 + f / 700)."""
    points = 700 * (10 ** (np.linspace(0, 2595 * math.log10(1 + 8000 / 700), 12) / 2595) - 1)
    frequencies = np.linspace(0, 8000, 65)[:, None]
    rising = (frequencies - points[:-2]) / np.diff(points)[:-1]
    falling = (points[2:] - frequencies) / np.diff(points)[1:]
    expected = np.clip(np.minimum(rising, falling), 0, None)
    module = audio.transforms.MelScale(n_mels=10, sample_rate=16000, n_stft=65).to(device)
    found = module(torch.eye(65, device=device)).t()
    # points of up to 8000 from a power of ten, over spacings of at least 130: 60 times the error of 16 roundings
    assert_matches(found, expected, atol=rounding(torch.float32, 60 * 16), device=device)


@pytest.mark.behavior("domain.torchaudio")
def test_decibels_and_companding_follow_their_formulas(device, audio, rng):
    """AmplitudeToDB takes 10 log10 of power above a floor; mu-law coding returns near the signal."""
    power = 10.0 ** rng.uniform(-12, 3, 50)
    given = torch.tensor(power, dtype=torch.float32, device=device)
    expected = 10 * np.log10(np.maximum(power, 1e-10))
    found = audio.transforms.AmplitudeToDB("power")(given)
    assert_matches(found, expected, atol=100 * rounding(torch.float32, 4), device=device)
    signal = torch.linspace(-1, 1, 101, device=device)
    coded = audio.functional.mu_law_encoding(signal, 256)
    returned = audio.functional.mu_law_decoding(coded, 256)
    assert (int(coded.min()), int(coded.max())) == (0, 255)
    # half a step of 1/255 on the compressed scale moves |x| + 1/255 by a factor of at most 256^(1/255)
    x = np.linspace(-1, 1, 101)
    assert_matches(returned, x, atol=(np.abs(x) + 1 / 255) * (256 ** (1 / 255) - 1) + rounding(torch.float32, 16))
