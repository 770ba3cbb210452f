"""The whole table of differentiable operations."""

from __future__ import annotations

from .operators import Op
from .operators_elementwise import BINARY, BROADCAST, FOREACH, SIGNS, UNARY
from .operators_linalg import COMPLEX, DECOMPOSITIONS, PRODUCTS
from .operators_movement import INDEXING, SHAPE
from .operators_nn import ACTIVATIONS, LAYERS, LOSSES
from .operators_reductions import REDUCTIONS

GROUPS: dict[str, tuple[Op, ...]] = {
    "unary": UNARY,
    "binary": BINARY,
    "broadcast": BROADCAST,
    "signs": SIGNS,
    "foreach": FOREACH,
    "reductions": REDUCTIONS,
    "products": PRODUCTS,
    "decompositions": DECOMPOSITIONS,
    "complex": COMPLEX,
    "indexing": INDEXING,
    "shape": SHAPE,
    "activations": ACTIVATIONS,
    "layers": LAYERS,
    "losses": LOSSES,
}
OPERATORS: tuple[Op, ...] = tuple(op for rows in GROUPS.values() for op in rows)


def operator(name: str) -> Op:
    """Return the row of that name."""
    return next(op for op in OPERATORS if op.name == name)
