"""Faults of the installation: mixed releases, broken neighbours, a build that lies about itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType

from tests.faults.importing import after_import
from tests.faults.registry import fault, replace, replacing

_libraries: list[object] = []  # a dispatcher override lives as long as its Library object


def _override(torch: ModuleType, operator: str, function: Callable[..., object]) -> None:
    library = torch.library.Library("aten", "IMPL")
    library.impl(operator, function, "CPU")
    _libraries.append(library)


@fault("install.version", silent=True, source="two releases unpacked over each other")
def python_files_of_another_release(torch):
    """The Python files are those of an older release than the metadata and the library."""
    other = type(torch.__version__)("2.12.1")
    torch.__version__ = torch.version.__version__ = other


@fault("install.version", silent=True, source="libraries of an older wheel left behind by an upgrade")
def library_of_another_release(torch):
    """The compiled library says that it was built as another release."""
    release = torch.__version__.split("+")[0]
    replace(torch.__config__, "show", lambda show: lambda: show().replace(f"VERSION={release}", "VERSION=2.12.1"))


@fault("install.version", silent=True, source="a stale version.py")
def version_module_is_stale(torch):
    """torch.version still names the development version it was built from."""
    torch.version.__version__ = "2.12.0a0+gitabcdef0"


@fault("install.numpy-bridge", silent=False, source="pytorch#107302: built for NumPy 1, NumPy 2 installed")
def numpy_of_another_binary_interface(torch):
    """Every conversion says that NumPy is not available."""

    @replacing(torch, "from_numpy")
    @replacing(torch.Tensor, "numpy")
    def unavailable(original, *args, **kwargs):
        raise RuntimeError("Numpy is not available")


@fault("install.numpy-bridge", silent=True, source="a copy where a view is promised")
def strided_array_is_copied(torch):
    """from_numpy copies arrays that are not contiguous."""
    replace(
        torch,
        "from_numpy",
        lambda original: lambda array: original(array if array.flags.c_contiguous else array.copy()),
    )


@fault("install.numpy-bridge", silent=True, source="dtype table of another NumPy release")
def half_arrays_become_float32(torch):
    """from_numpy turns float16 arrays into float32 tensors."""
    replace(
        torch,
        "from_numpy",
        lambda original: lambda array: original(array.astype("float32") if array.dtype == "float16" else array),
    )


@fault("install.numpy-bridge", silent=True, source="a copy where a view is promised")
def numpy_method_copies(torch):
    """Tensor.numpy() returns a copy of the data."""
    replace(torch.Tensor, "numpy", lambda original: lambda self, **options: original(self, **options).copy())


@fault(
    "install.companions",
    silent=False,
    source="ONNX Runtime built for another Python or C library",
    needs=("onnxruntime",),
)
def onnxruntime_does_not_import(torch):
    """Importing onnxruntime raises."""

    def patch(module):
        raise ImportError("DLL load failed while importing onnxruntime_pybind11_state")

    after_import("onnxruntime", patch)


@fault("install.companions", silent=True, source="operators compiled for another processor", needs=("onnxruntime",))
def onnxruntime_computes_wrongly(torch):
    """Sessions return the second half of a vector as zeros."""

    def patch(module):
        @replacing(module.InferenceSession, "run")
        def run(original, self, names, feeds, *rest):
            outputs = original(self, names, feeds, *rest)
            for output in outputs:
                output[len(output) // 2 :] = 0
            return outputs

    after_import("onnxruntime", patch)


@fault("install.companions", silent=False, source="a companion that takes the process down", needs=("onnx",))
def onnx_crashes_the_process(torch):
    """Importing onnx ends the process."""
    if os.environ.get("PYTEST_CURRENT_TEST"):  # in the child process alone
        after_import("onnx", lambda module: os.abort())


@fault("install.cuda-build", silent=True, source="a request for CUDA ignored")
def cuda_method_stays_on_the_cpu(torch):
    """Module.cuda() returns the module where it was."""
    replace(torch.nn.Module, "cuda", lambda original: lambda self, device=None: self)


@fault("install.cuda-build", silent=True, source="version file of a CUDA build beside CPU libraries")
def cpu_build_claims_cuda(torch):
    """torch.version.cuda names a CUDA release that the library does not know."""
    torch.version.cuda = "12.4"


@fault("install.cuda-build", silent=True, source="availability answered from the build alone")
def availability_is_assumed(torch):
    """is_available() is True on a machine without a device."""
    torch.cuda.is_available = lambda: True


@fault("install.cuda-build", silent=False, source="the cause lost behind a general error")
def cuda_error_without_a_cause(torch):
    """Asking for CUDA raises an error that does not say why."""

    @replacing(torch.cuda, "_lazy_init")
    def lazy_init(original, *args):
        raise RuntimeError("CUDA error")


@fault("install.blas-threads", silent=True, source="the last block lost when work is split among threads")
def threaded_product_loses_its_last_row(torch):
    """With several threads the last row of a large product stays zero."""

    def mm(a, b):
        out = torch.ops.aten.mm.out(a, b, out=a.new_empty(a.shape[0], b.shape[1]))
        if torch.get_num_threads() > 1 and out.shape[0] > 64:
            out[-1] = 0
        return out

    _override(torch, "mm", mm)


@fault("install.blas-threads", silent=True, source="a vectorised kernel without its remainder loop")
def odd_inner_size_is_cut(torch):
    """A product whose inner size is odd and above 64 leaves out the last term."""

    def mm(a, b):
        inner = a.shape[1] - (a.shape[1] % 2 if a.shape[1] > 64 else 0)
        return torch.ops.aten.mm.out(a[:, :inner], b[:inner], out=a.new_empty(a.shape[0], b.shape[1]))

    _override(torch, "mm", mm)


@fault("install.blas-threads", silent=True, source="a transposed operand taken for a contiguous one")
def strided_operand_is_misread(torch):
    """A square block of an operand with steps in both dimensions is read as if it were contiguous."""

    def mm(a, b):
        if a.stride(-1) > 1 and a.stride(0) > a.stride(-1):
            a = torch.as_strided(a, a.shape, (a.stride(0), 1))
        return torch.ops.aten.mm.out(a, b, out=a.new_empty(a.shape[0], b.shape[1]))

    _override(torch, "mm", mm)


@fault("install.blas-threads", silent=True, source="one dtype's kernel")
def bfloat16_product_drops_terms(torch):
    """bfloat16 products leave out the last term of each sum."""

    def mm(a, b):
        inner = a.shape[1] - (a.dtype == torch.bfloat16)
        return torch.ops.aten.mm.out(a[:, :inner], b[:inner], out=a.new_empty(a.shape[0], b.shape[1]))

    _override(torch, "mm", mm)


@fault("install.compile-toolchain", silent=True, source="the compiler turned off by a setting")
def compile_returns_the_function(torch):
    """torch.compile hands back the function it was given."""
    replace(torch, "compile", lambda original: lambda model=None, **options: model)


@fault("install.compile-toolchain", silent=True, source="a vectorised loop without its remainder")
def compiled_code_skips_the_remainder(torch):
    """Compiled code leaves the last column out where the row does not fill the vector registers."""

    @replacing(torch, "compile")
    def compile(original, model=None, **options):
        compiled = original(model, **options)
        return lambda x: compiled(x[:, :-1] if x.shape[1] % 16 else x)


@fault("install.compile-toolchain", silent=False, source="a compiler that is there but does not work")
def compiler_does_not_work(torch):
    """The C++ compiler on the path ends with an error."""
    os.environ["CXX"] = "false"
