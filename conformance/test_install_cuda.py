"""Does the build say truly whether it can use CUDA, and if it can, does it carry code for these devices?"""

from __future__ import annotations

import json
import re

import pytest
import torch
from packaging.version import Version

from .support.cuda_arch import covers
from .support.process import run_python

#: Ways to ask for CUDA, as expressions in which torch is known.
REQUESTS = {
    "Tensor.cuda": "torch.ones(2).cuda()",
    "Tensor.to": "torch.ones(2).to('cuda')",
    "Tensor.to index": "torch.ones(2).to('cuda:0')",
    "factory": "torch.ones(2, device='cuda')",
    "tensor": "torch.tensor([1, 2], device='cuda')",
    "Module.cuda": "torch.nn.Linear(2, 2).cuda()",
    "Module.to": "torch.nn.Linear(2, 2).to('cuda')",
    "synchronize": "torch.cuda.synchronize()",
    "current_device": "torch.cuda.current_device()",
    "properties": "torch.cuda.get_device_properties(0)",
    "Generator": "torch.Generator(device='cuda')",
}
#: A message names the cause when it speaks of the build, the driver or the missing device.
CAUSE = re.compile(
    r"not compiled with (CUDA|HIP)|compiled without CUDA|ATen_cuda library|"
    r"no NVIDIA driver|driver version is insufficient|driver on your system is too old|"
    r"No (CUDA|HIP) GPUs are available|no (CUDA|ROCm)-capable device",
    re.IGNORECASE,
)
PROBE = """
import json, sys, torch
def answer(expression):
    try:
        return [str(eval(expression)), None]
    except Exception as error:  # whatever is raised is what the check judges
        return [type(error).__name__, str(error)]
print(json.dumps({
    "available": repr(torch.cuda.is_available()),
    "count": repr(torch.cuda.device_count()),
    "answers": {expression: answer(expression) for expression in sys.argv[1:]},
}))
"""


@pytest.fixture(scope="module")
def hidden() -> dict:
    """What a process sees from which every GPU is hidden: the same on a machine that has none."""
    variables = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
    done = run_python(PROBE, *REQUESTS.values(), env=dict.fromkeys(variables, ""))
    return json.loads(done.stdout.splitlines()[-1])


def compiled_with(name: str) -> str | None:
    """Return a build setting that the compiled library prints, or None."""
    found = re.search(rf"\b{name}=([^,\s]+)", torch.__config__.show())
    return found.group(1) if found else None


@pytest.mark.behavior("install.cuda-build")
def test_version_cuda_tells_whether_the_build_has_cuda():
    """torch.version.cuda (or .hip) is a version where the build has CUDA (or ROCm), and None where it has not."""
    runtime = torch.version.cuda or torch.version.hip
    assert (runtime is not None) == torch.backends.cuda.is_built()
    assert torch.version.cuda is None or re.fullmatch(r"\d+\.\d+", torch.version.cuda)


@pytest.mark.behavior("install.cuda-build")
def test_version_cuda_agrees_with_the_compiled_library():
    """The compiled library was built with the CUDA that torch.version.cuda names, or without any."""
    with_cuda = compiled_with("USE_CUDA") in ("1", "ON", "True")
    assert with_cuda == (torch.version.cuda is not None)
    assert compiled_with("CUDA_VERSION") == torch.version.cuda


@pytest.mark.behavior("install.cuda-build")
def test_build_tag_agrees_with_version_cuda():
    """A version that ends in +cpu has no CUDA; one that ends in +cu130 has CUDA 13.0."""
    tag = Version(torch.__version__).local or ""
    if not re.fullmatch(r"cpu|cu\d+", tag):
        pytest.skip(f"the version {torch.__version__} carries no cpu or CUDA tag; official wheels do")
    digits = (torch.version.cuda or "").replace(".", "")
    assert tag == (f"cu{digits}" if digits else "cpu")


@pytest.mark.behavior("install.cuda-build")
def test_nothing_is_available_where_no_device_is(hidden):
    """Without a visible device is_available() is False and device_count() is 0."""
    assert (hidden["available"], hidden["count"]) == ("False", "0")


@pytest.mark.behavior("install.cuda-build")
@pytest.mark.parametrize("request_name", REQUESTS)
def test_asking_for_cuda_in_vain_names_the_cause(hidden, request_name):
    """Every way to ask for CUDA raises where there is none, and the message says why."""
    outcome, message = hidden["answers"][REQUESTS[request_name]]
    assert message is not None, f"{REQUESTS[request_name]} gave {outcome} instead of an error"
    assert CAUSE.search(message), f"{outcome} does not name the cause: {message}"
    if not torch.backends.cuda.is_built():
        assert re.search("compiled with|compiled without|ATen_cuda", message), f"the cause is the build: {message}"


@pytest.mark.behavior("install.cuda-build")
def test_is_available_agrees_with_what_happens():
    """is_available() is True exactly when a tensor can be put on CUDA, in this process too."""
    if torch.cuda.is_available():
        assert torch.arange(3).cuda().add(1).tolist() == [1, 2, 3]
    else:
        with pytest.raises((AssertionError, RuntimeError), match=CAUSE):
            torch.arange(3).cuda()


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The device under test where it is a CUDA one."""
    if device.type != "cuda":
        pytest.skip(f"{device.type} has no compute capability; needs --torchcheck-devices=cuda and a CUDA device")
    return device


@pytest.mark.behavior("install.gpu-arch")
def test_build_covers_the_devices_capability(cuda):
    """The build carries machine code for the device's compute capability, or PTX that compiles for it."""
    built_for = torch.cuda.get_arch_list()
    if torch.version.hip:
        name = torch.cuda.get_device_properties(cuda).gcnArchName
        assert name.split(":")[0] in {arch.split(":")[0] for arch in built_for}
    else:
        capability = torch.cuda.get_device_capability(cuda)
        assert covers(built_for, capability), f"capability {capability} is not among {built_for}"


@pytest.mark.behavior("install.gpu-arch")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.bool], ids=str)
def test_kernels_run_on_the_device(cuda, dtype):
    """Elementwise, reduction, sorting and indexing kernels run on the device and give the right integers."""
    x = torch.arange(1000, device=cuda).remainder(2).to(dtype)
    assert (x.sum().item(), (x == 1).sum().item()) == (500, 500)
    assert x.sort().values[[0, 499, 500, 999]].tolist() == [0, 0, 1, 1]
    assert torch.cat([x, x]).nonzero().flatten()[:3].tolist() == [1, 3, 5]


@pytest.mark.behavior("install.gpu-arch")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_library_kernels_run_on_the_device(cuda, dtype):
    """A matrix product (cuBLAS) and a convolution (cuDNN) run on the device and give the right integers."""
    ones = torch.ones(64, 64, device=cuda, dtype=dtype)
    assert torch.equal((ones @ ones).cpu(), torch.full((64, 64), 64, dtype=dtype))
    image = torch.nn.functional.conv2d(ones.reshape(1, 1, 64, 64), torch.ones(1, 1, 3, 3, device=cuda, dtype=dtype))
    assert (image.amin().item(), image.amax().item(), tuple(image.shape)) == (9, 9, (1, 1, 62, 62))
