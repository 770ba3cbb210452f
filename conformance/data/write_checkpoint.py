"""Write the checkpoint files of one torch release, and record what is in them.

    python write_checkpoint.py FOLDER

Run it under the release whose files are wanted. It writes checkpoint-VERSION.pt, the same in the format that
torch used before 1.6 as checkpoint-VERSION-legacy.pt, and checkpoint-VERSION.json with every value. All values come
from arithmetic, so that two releases write equal values. Only what torch 1.13 has may be used here.
"""

import json
import math
import platform
import sys
from pathlib import Path

import torch
from torch import nn

DTYPES = [
    "float64", "float32", "float16", "bfloat16", "complex64", "complex128",
    "uint8", "int8", "int16", "int32", "int64", "bool",
]  # fmt: skip


def ramp(count, shift):
    """Return ``count`` float64 numbers between -1 and 1 that single precision holds exactly."""
    return torch.tensor([((37 * i + 11 * shift) % 64 - 32) / 32 for i in range(count)], dtype=torch.float64)


def build_model():
    """Return a small model whose parameters and buffers are ramps."""
    model = nn.Sequential()
    model.add_module("first", nn.Linear(3, 4))
    model.add_module("norm", nn.BatchNorm1d(4))
    model.add_module("act", nn.Tanh())
    model.add_module("last", nn.Linear(4, 2))
    with torch.no_grad():
        for shift, tensor in enumerate([*model.parameters(), model.norm.running_mean]):
            tensor.copy_(ramp(tensor.numel(), shift).reshape(tensor.shape))
        model.norm.running_var.copy_(ramp(4, 9).abs() + 0.5)
        model.norm.num_batches_tracked.fill_(17)
    return model


def train(model):
    """Take three Adam steps on ramp gradients, with a scheduler, and return optimizer and scheduler."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.125, betas=(0.5, 0.75), weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    for step in range(3):
        for shift, parameter in enumerate(model.parameters()):
            parameter.grad = ramp(parameter.numel(), shift + step).reshape(parameter.shape).float()
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler


def build_tensors():
    """Return tensors of every dtype and layout that a checkpoint may hold."""
    found = {name: ramp(6, place).mul(8).to(getattr(torch, name)) for place, name in enumerate(DTYPES)}
    found["special"] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45])
    found["scalar"] = torch.tensor(2.5, dtype=torch.float64)
    found["empty"] = torch.empty(0, 3)
    base = ramp(24, 5)
    found["base"] = base
    found["view"] = base[4:20:3]
    found["transposed"] = base.reshape(4, 6).t()
    found["channels_last"] = ramp(48, 6).reshape(2, 3, 2, 4).contiguous(memory_format=torch.channels_last)
    found["parameter"] = nn.Parameter(ramp(3, 7))
    return found


def record(value):
    """Return ``value`` in terms of JSON; tensors become dtype, shape, stride and flat values."""
    if isinstance(value, torch.Tensor):
        data = value.detach()
        flat = torch.view_as_real(data).reshape(-1).tolist() if data.is_complex() else data.reshape(-1).tolist()
        return {
            "dtype": str(value.dtype)[6:],
            "shape": list(value.shape),
            "stride": list(value.stride()),
            "requires_grad": value.requires_grad,
            "values": [str(x) if isinstance(x, float) and not math.isfinite(x) else x for x in flat],
        }
    if isinstance(value, dict):
        return {"dict": [[record(key), record(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [record(item) for item in value]}
    return value


def main(folder):
    """Write the files of this release into ``folder``."""
    version = torch.__version__.split("+")[0]
    model = build_model()
    optimizer, scheduler = train(model)
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {key: value for key, value in scheduler.state_dict().items() if not key.startswith("_")},
        "tensors": build_tensors(),
        "epoch": 3,
        "notes": ["plain", ("nested", None, True, 1.5)],
    }
    torch.save(checkpoint, folder / f"checkpoint-{version}.pt")
    torch.save(checkpoint, folder / f"checkpoint-{version}-legacy.pt", _use_new_zipfile_serialization=False)
    written = {"torch": torch.__version__, "python": platform.python_version(), "content": record(checkpoint)}
    (folder / f"checkpoint-{version}.json").write_text(json.dumps(written, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
