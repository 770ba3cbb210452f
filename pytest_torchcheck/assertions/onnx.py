"""Does the ONNX file of a model give in ONNX Runtime what the model gives in eager?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.calls import Subject, as_args, as_kwargs, fresh, modules_untouched, name_of
from pytest_torchcheck.assertions.errors import VacuousCheckError
from pytest_torchcheck.assertions.exporting import exportable, free_dimensions, signature_of
from pytest_torchcheck.assertions.parity import EMPTY, Form, Plan, assert_parity
from pytest_torchcheck.assertions.parity_report import cannot
from pytest_torchcheck.assertions.quiet import UsersWarnings
from pytest_torchcheck.assertions.torchscript import Flat, unique_tensors

_CPU = "CPUExecutionProvider"
_NEXT = (
    "an export keeps the mode, the numbers and the branches of its example, and all sizes that dynamic_shapes does\n"
    "not leave open; the other exporter (dynamo=) may differ"
)
#: ONNX Runtime's level for what ends a process: other failures are raised, and need not be printed too.
_FATAL_ONLY = 4


def assert_onnx_parity(
    model: Subject,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    other_args: Iterable[Any] | None = None,
    dynamo: bool = True,
    providers: Sequence[Any] = (_CPU,),
    opset_version: int | None = None,
    form: str | Path | None = None,
    modes: tuple[str, ...] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Require the exported and checked ONNX file to give in ONNX Runtime what the model gives in eager.

    Outputs are compared, in eval mode unless ``modes`` says otherwise; gradients and state are no part of a file.

    Args:
        model: a module, a method of one, or a function.
        args, kwargs: the example that is exported. What is no tensor becomes part of the graph.
        dynamic_shapes: that of ``torch.export.export``, for both exporters. None leaves no size open.
        other_args: more argument tuples. By default other values are made up (drawn from the given ones, and
            negated), and other sizes where ``dynamic_shapes`` leaves them open (where ``form`` is given: other batch
            sizes); those that eager refuses are left out. ``[]`` checks the given arguments alone.
        dynamo: which exporter of ``torch.onnx.export``: the one built on torch.export, or on TorchScript.
        providers: ONNX Runtime's execution providers, by order of preference; the first one must be used, and where
            the CPU's is not among them, for every node.
        opset_version: that of ``torch.onnx.export``.
        form: the path of a file of the project's own making, checked in place of one made here.
        modes: "eval", "train" or both.
        rtol, atol: both or neither. By default rounding alone is allowed: 256 eps of the coarsest dtype that takes
            part (8 eps of float16, bfloat16 and TF32), of each value and of the largest in its tensor.

    Raises:
        AssertionError: the model cannot be exported, the file is not valid, or outputs differ.
        VacuousCheckError: the provider is not there or not used, the graph has no operation, no other input
            could be made up, or nothing could be compared.
        ModuleNotFoundError: onnx, onnxruntime or (for dynamo) onnxscript is not installed.
        TypeError: ``args`` is no tuple.
        ValueError: no provider, an unknown mode, or one of rtol and atol alone.
    """
    __tracebackhide__ = True
    _require("onnx", "onnxruntime", *(["onnxscript"] if dynamo and form is None else []))
    positional, keyword = as_args(args), as_kwargs(kwargs)
    free = None if form is not None else free_dimensions(model, positional, keyword, dynamic_shapes)
    plan = Plan(model, positional, keyword, other_args, False, modes or ("eval",), rtol, atol, free)
    exporter, runtime = _Exporter(dynamo, opset_version, dynamic_shapes), _Runtime(providers)
    warned = UsersWarnings()

    def build(_: str) -> Iterator[Form]:
        if form is not None:
            yield _form(Path(form), model, runtime, Path(form).name)
            return
        with tempfile.TemporaryDirectory(prefix="torchcheck-onnx-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "model.onnx"
            exporter.write(plan, path, warned)
            yield _form(path, model, runtime, f"dynamo={dynamo}")

    assert_parity(plan, build)
    warned.repeat()


def _require(*names: str) -> None:
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"assert_onnx_parity needs {name}: pip install 'pytest-torchcheck[onnx]'", name=name
            ) from error


@dataclass(frozen=True)
class _Exporter:
    """One of the two exporters of ``torch.onnx.export``, with its options."""

    dynamo: bool
    opset: int | None
    shapes: Any

    def write(self, plan: Plan, path: Path, warned: UsersWarnings) -> None:
        """Export the model to a file.

        Raises:
            AssertionError: it cannot be exported.
        """
        __tracebackhide__ = True
        export = self._by_torch_export if self.dynamo else self._by_trace
        try:
            with modules_untouched(plan.subject), warned.collected():
                args, kwargs = fresh((plan.args, dict(plan.kwargs)))
                export(plan.subject, args, kwargs, path)
        except Exception as error:
            raise AssertionError(cannot("exported to ONNX", name_of(plan.subject), error, _NEXT)) from error

    def _by_torch_export(self, subject: Subject, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path) -> None:
        module = exportable(subject, args, kwargs)
        if args and isinstance(args[-1], dict):  # which would be taken for keyword arguments
            kwargs = {**dict(zip(signature_of(subject).parameters, args, strict=False)), **kwargs}
            args = ()
        torch.onnx.export(
            module,
            args,
            path,
            kwargs=kwargs,
            dynamic_shapes=self.shapes,
            opset_version=self.opset,
            dynamo=True,
            verbose=False,
        )

    def _by_trace(self, subject: Subject, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path) -> None:
        free = free_dimensions(subject, args, kwargs, self.shapes)
        module = Flat(subject, args, kwargs, flat_out=True)
        examples = [one for _, one in unique_tensors((args, kwargs))]
        names = [f"input_{at}" for at in range(len(examples))]
        dims = {id(one): dims for (_, one), dims in zip(nests.tensors((args, kwargs)), free, strict=True)}
        axes = {
            name: {dim: f"{name}_{dim}" for dim in dims[id(one)]} for name, one in zip(names, examples, strict=True)
        }
        mode = torch.onnx.TrainingMode.TRAINING if module.training else torch.onnx.TrainingMode.EVAL
        torch.onnx.export(
            module,
            tuple(examples),
            path,
            input_names=names,
            dynamic_axes=axes,
            opset_version=self.opset,
            training=mode,
            dynamo=False,
        )


class _Runtime:
    """ONNX Runtime with the execution providers that are asked for; ``names`` has those alone, without options.

    Raises:
        ValueError: there is none.
        VacuousCheckError: one of them is not part of this ONNX Runtime, which would run on the CPU without a word.
    """

    def __init__(self, providers: Sequence[Any]) -> None:
        __tracebackhide__ = True
        if isinstance(providers, str) or not providers:
            raise ValueError(f"providers must be a list of at least one execution provider, not {providers!r}")
        self.providers = list(providers)
        self.names = [str(one[0]) if isinstance(one, tuple) else str(one) for one in providers]
        available = import_module("onnxruntime").get_available_providers()
        missing = [name for name in self.names if name not in available]
        if missing:
            raise VacuousCheckError(
                f"{', '.join(missing)} is not part of this ONNX Runtime, which would run on the CPU without a word; "
                f"it has {', '.join(available)}"
            )

    def session(self, path: Path, name: str) -> Any:
        """Return what runs a file.

        Raises:
            VacuousCheckError: another provider than the one asked for would run it, or a part of it.
        """
        __tracebackhide__ = True
        runtime = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        if _CPU not in self.names:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        wanted = self.names[0]
        try:
            session = runtime.InferenceSession(str(path), options, providers=self.providers)
        except Exception as error:
            raise VacuousCheckError(f"{wanted} cannot run the whole graph: {error}") from error
        session.disable_fallback()
        used = session.get_providers()
        if used[:1] != [wanted]:
            raise VacuousCheckError(f"{wanted} was asked for, and ONNX Runtime would run {name} on {', '.join(used)}")
        return session


def _form(path: Path, subject: Subject, runtime: _Runtime, how: str) -> Form:
    """Return the checked file as a form.

    Raises:
        AssertionError: the checker refuses it.
        VacuousCheckError: another provider than the one asked for would run it.
    """
    __tracebackhide__ = True
    name, onnx = name_of(subject), import_module("onnx")
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise AssertionError(cannot("checked: its ONNX file is not valid", name, error, _NEXT)) from error
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    empty = all(node.op_type in ("Identity", "Constant") for node in nodes)
    session = runtime.session(path, name)
    return Form(
        f"as ONNX file ({how}) on {runtime.names[0]}",
        lambda *args, **kwargs: _run(session, subject, args, kwargs),
        ran=(lambda: 0) if empty else None,
        keeps_state=False,
        when_idle=EMPTY,
        next_step=_NEXT,
    )


def _run(session: Any, subject: Subject, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    names = [one.name for one in session.get_inputs()]
    named = signature_of(subject).bind(*args, **kwargs).arguments
    if {name for name, value in named.items() if isinstance(value, torch.Tensor)} == set(names):
        tensors = [named[name] for name in names]
    else:  # an exporter's own names: then the order is that of the arguments
        tensors = [one for _, one in unique_tensors((args, kwargs))]
    if len(names) != len(tensors):
        raise ValueError(f"the file takes {len(names)} inputs ({', '.join(names)}), the model {len(tensors)} tensors")
    feeds = {name: one.detach().cpu().numpy() for name, one in zip(names, tensors, strict=True)}
    return tuple(torch.as_tensor(one) for one in session.run(None, feeds))
