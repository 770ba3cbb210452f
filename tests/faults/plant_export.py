"""Faults of torch.export."""

from __future__ import annotations

from tests.faults.registry import fault, replace, replacing


@fault("export.parity", silent=False, source="a dynamic dimension specialised to the example")
def dynamic_batch_becomes_fixed(torch):
    """The declared dynamic dimension is dropped, and the example's size is the only one."""

    def make(original):
        return lambda module, args, kwargs=None, *, dynamic_shapes=None, **options: original(
            module, args, kwargs, **options
        )

    replace(torch.export, "export", make)


@fault("export.parity", silent=True, source="running statistics lost on the way through a file")
def loaded_buffers_are_reset(torch):
    """After loading, running variances are what a new module has."""

    @replacing(torch.export, "load")
    def load(original, *args, **options):
        program = original(*args, **options)
        for name, value in program.state_dict.items():
            if name.endswith("running_var"):
                with torch.no_grad():
                    value.fill_(1.0)
        return program


@fault("export.parity", silent=True, source="a module exported in the wrong mode")
def export_is_in_training_mode(torch):
    """The program is that of a module in training mode, dropout and batch statistics included."""

    @replacing(torch.export, "export")
    def export(original, module, *args, **options):
        was = module.training
        try:
            return original(module.train(), *args, **options)
        finally:
            module.train(was)


@fault("export.parity", silent=True, source="parameters lifted as constants")
def exported_module_loses_gradients(torch):
    """The exported module's outputs carry no gradient."""

    @replacing(torch.export.ExportedProgram, "module")
    def module(original, self, *args, **options):
        found = original(self, *args, **options)
        for parameter in found.parameters():
            parameter.requires_grad_(False)
        return found


@fault("export.parity", silent=True, source="one branch kept")
def cond_keeps_the_branch_of_the_example(torch):
    """torch.cond becomes, while it is exported, the branch for true."""

    @replacing(torch, "cond")
    def cond(original, pred, true_fn, false_fn, operands=()):
        exporting = isinstance(pred, torch._subclasses.FakeTensor) or torch.compiler.is_exporting()
        return true_fn(*operands) if exporting else original(pred, true_fn, false_fn, operands)


@fault("export.parity", silent=True, source="class of bug: optional argument at its default in the graph")
def exported_gelu_is_never_approximate(torch):
    """torch.export writes GELU without its approximation."""

    @replacing(torch.export, "export")
    def export(original, *args, **options):
        program = original(*args, **options)
        for node in program.graph.nodes:
            if node.target is torch.ops.aten.gelu.default:
                node.kwargs = {}
        program.graph_module.recompile()
        return program
