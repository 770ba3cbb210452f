"""Faults of torch.compile."""

from __future__ import annotations

from tests.faults.registry import fault, replace, replacing


def _through_backend(torch, change):
    """Hand every captured graph to ``change(graph, compiled)`` for what runs in place of the compiled graph."""

    @replacing(torch, "compile")
    def compile(original, model=None, *, backend="inductor", **options):
        if model is None or isinstance(backend, str) and backend == "no_such_backend":
            return original(model, backend=backend, **options)
        inner = torch._dynamo.lookup_backend(backend) if isinstance(backend, str) else backend
        return original(model, backend=lambda graph, inputs: change(graph, inputs, inner), **options)


@fault("compile.parity", silent=True, source="a setting that turns the compiler off")
def compile_does_nothing(torch):
    """torch.compile returns what it was given."""
    replace(torch, "compile", lambda original: lambda model=None, **options: model)


@fault("compile.parity", silent=True, source="a size taken as a constant when the graph is reused")
def dynamic_graph_keeps_the_first_size(torch):
    """A graph for open sizes doubles its outputs for a batch larger than that of its first call."""

    def change(graph, inputs, inner):
        compiled = inner(graph, inputs)
        seen = []

        def run(*args):
            outputs = compiled(*args)
            sizes = [arg for arg in args if isinstance(arg, int)]
            seen.append(sizes)
            if sizes and sizes[0] > seen[0][0]:
                return [out * 2 if isinstance(out, torch.Tensor) else out for out in outputs]
            return outputs

        return run

    _through_backend(torch, change)


@fault("compile.parity", silent=True, source="stale outputs of a reused buffer")
def second_run_repeats_the_first_result(torch):
    """From its second run on, a graph without parameters gives the result of its first run."""

    def change(graph, inputs, inner):
        compiled = inner(graph, inputs)
        first = []

        def run(*args):
            outputs = compiled(*args)
            if any(isinstance(out, torch.Tensor) and out.requires_grad for out in outputs):
                return outputs
            first.append(outputs)
            return first[0]

        return run

    _through_backend(torch, change)


@fault("compile.parity", silent=True, source="gradient lost across a graph break")
def graph_after_the_first_detaches_its_inputs(torch):
    """The graph behind a break does not pass gradients back to the one before it."""
    count = []

    def change(graph, inputs, inner):
        compiled = inner(graph, inputs)
        count.append(graph)
        if len(count) % 2:
            return compiled
        return lambda *args: compiled(
            *[
                arg.detach() if isinstance(arg, torch.Tensor) and arg.requires_grad and not arg.is_leaf else arg
                for arg in args
            ]
        )

    _through_backend(torch, change)


@fault("compile.parity", silent=False, source="a graph break that ends the program")
def graph_break_raises(torch):
    """Every compilation demands a single graph."""

    def make(original):
        return lambda model=None, **options: original(model, **{**options, "fullgraph": True})

    replace(torch, "compile", make)
