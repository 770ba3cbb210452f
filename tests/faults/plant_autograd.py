"""Faults of automatic differentiation."""

from __future__ import annotations

from tests.faults.registry import fault, replace


@fault("autograd.accumulate", silent=True, source="gradients overwritten instead of added")
def backward_overwrites_grad(torch):
    """backward() clears the .grad of the leaves it reaches first."""

    def make(original):
        def backward(self, *args, **kwargs):
            pending = [self.grad_fn] if self.grad_fn is not None else []
            while pending:
                node = pending.pop()
                if hasattr(node, "variable"):
                    node.variable.grad = None
                pending += [parent for parent, _ in node.next_functions if parent is not None]
            return original(self, *args, **kwargs)

        return backward

    replace(torch.Tensor, "backward", make)
