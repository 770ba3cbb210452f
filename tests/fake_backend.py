"""A backend from outside torch, in Python: tensors of the device ``fakenpu`` keep their data in a host tensor.

It goes into torch's slot for such backends, once per process, so only child processes import this.
"""

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend


class BackendModule:
    """What torch.fakenpu offers: the functions that torch's notes ask of every backend."""

    def is_available(self):
        return True

    def is_initialized(self):
        return True

    def device_count(self):
        return 1

    def current_device(self):
        return 0

    def get_rng_state(self, device=0):
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state, device=0):
        pass

    def manual_seed_all(self, seed):
        pass

    def _is_in_bad_fork(self):
        return False


_setup_privateuseone_for_python_backend("fakenpu", BackendModule())
library = torch.library.Library("aten", "IMPL")


class FakeTensor(torch.Tensor):
    @staticmethod
    def __new__(cls, host):
        wrapper = torch._C._acc.create_empty_tensor(tuple(host.shape), host.dtype)
        wrapper.__class__ = cls
        wrapper.host = host
        return wrapper

    def __init__(self, host):
        pass


def to_host(value):
    return value.host if isinstance(value, FakeTensor) else value


def on_host(operator):
    return lambda *arguments: FakeTensor(operator(*map(to_host, arguments)))


def empty(size, dtype=None, **_):
    return FakeTensor(torch.empty(size, dtype=dtype))


def empty_strided(size, stride, dtype=None, **_):
    return FakeTensor(torch.empty_strided(size, stride, dtype=dtype))


def copy_from(source, target, non_blocking=False):
    to_host(target).copy_(to_host(source))
    return target


KERNELS = {
    "empty.memory_format": empty,
    "empty_strided": empty_strided,
    "_copy_from": copy_from,
    "mm": on_host(torch.mm),
    "mul.Tensor": on_host(torch.mul),
    "add.Tensor": on_host(torch.add),
}
for name, function in KERNELS.items():
    library.impl(name, function, "PrivateUse1")
