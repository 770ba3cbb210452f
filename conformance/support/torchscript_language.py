"""What TorchScript takes of Python's language. It reads this source: keep to what it knows.

Every function is called as Python runs it and as TorchScript does, with the arguments beside it in ``CALLS``.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


def integers(a: int, b: int) -> list[int]:
    return [a + b, a - b, a * b, a // b, a % b, -a // b, -a % b, a & b, a | b, a ^ b, a << 2, a >> 1, abs(a - b),
            min(a, b), max(a, b), -a, divmod(a, b)[0], divmod(a, b)[1], int(a / b), int(-a / b)]  # fmt: skip


def floats(a: float, b: float) -> list[float]:
    return [a + b, a - b, a * b, a / b, a // b, a % b, -a // b, -a % b, a**2, a**0.5, -(a**2), abs(a - b), min(a, b),
            max(a, b), float(int(a)), math.floor(a) + 0.0, math.ceil(a) + 0.0, math.sqrt(a), math.exp(b),
            math.log(a), math.pow(a, b), math.fmod(-a, b), math.copysign(a, -b), math.pi, round(a) + 0.0]  # fmt: skip


def mixed(a: int, b: float) -> list[float]:
    return [a + b, b - a, a * b, a / 4, 7 / a, b // a, a % b, a**b, float(a), float(int(b)), int(b) + 0.5]


def comparisons(a: int, b: int, c: float) -> list[bool]:
    return [a < b, a <= b, a == b, a != b, a > b, a >= b, a < b < 5, a == c, c > a, not a > b, a > 0 and b > 0,
            a > 0 or b > 0, (a > 0) == (b > 0), bool(a), bool(c), a in [1, 2, 3], a not in [1, 2, 3]]  # fmt: skip


def short_circuits(items: list[int]) -> list[bool]:
    found = [len(items) > 0 and items[0] > 1, len(items) == 0 or items[0] > 1]
    found.append(True if len(items) > 1 else False)  # noqa: SIM210  (a conditional expression is the point)
    found.append(any([item > 2 for item in items]))  # noqa: C419
    found.append(all([item > 0 for item in items]))  # noqa: C419
    return found


def words(a: str, b: str) -> list[str]:
    return [a + b, a.upper(), b.lower(), a[1:], a[:-1], a[-1], a[0:2], "-".join([a, b, a]), a.replace("a", "oo"),
            "  " + a.strip() + " ", f"{a}:{b}", "{} and {}".format(a, b), a.split("a")[0], str(len(a)),  # noqa: UP032
            a.lstrip("b"), b.rstrip("d"), a.capitalize(), a.zfill(7), str(a == b), str(3), str(True)]  # fmt: skip


def looked_up(a: str, b: str) -> list[int]:
    return [len(a), a.find("a"), a.find("zz"), a.count("a"), int(a.startswith("b")), int(a.endswith("d")),
            int("a" in b), int(a < b), int(a == b), int("41") + 1, ord(a[0]), a.rfind("a"), int(a.isdigit()),
            int(b.isalpha())]  # fmt: skip


def lists(items: list[int]) -> list[list[int]]:
    grown = items + [7, 8]
    grown.append(9)
    grown.extend([1, 1])
    grown.insert(1, -5)
    last = grown.pop()
    first = grown.pop(0)
    ordered = sorted(grown)
    turned = items.copy()
    turned.reverse()
    falling = items.copy()
    falling.sort(reverse=True)
    less = grown.copy()
    less.remove(8)
    del less[0]
    alias = less
    alias.append(100)
    written = items * 2
    written[0] = -1
    written[-1] += 10
    return [grown, [last, first], ordered, turned, falling, less, written, items[1:], items[:-1], items[::2],
            items[-2:], items * 2, [0] * 3,
            [len(items), sum(items), min(items), max(items), items.index(4), items.count(4)],
            [item * 2 for item in items], [float_of(item) for item in items[1:]]]  # fmt: skip


def float_of(number: int) -> int:
    return int(float(number) / 2)


def nested(rows: list[list[int]]) -> list[int]:
    total = [0, 0]
    for row in rows:
        row.append(len(row))
        for place, value in enumerate(row):
            total[place % 2] += value
    rows[0][0] = 40
    return total + rows[0] + [len(rows)]


def dicts(table: dict[str, int]) -> dict[str, int]:
    table["new"] = len(table)
    table["a"] += 5
    popped = table.pop("b")
    total = 0
    for name in table:
        total += len(name)
    for name, value in table.items():
        total += value * len(name)
    other = {"x": 1, "y": sum(list(table.values()))}
    other.update({"z": table.get("none", -3), "x": table["a"]})
    other.setdefault("x", 100)
    other.setdefault("w", 200)
    if "new" in table and "none" not in table:
        other["found"] = 1
    del table["new"]
    other["popped"], other["total"], other["keys"] = popped, total, len(list(table.keys()))
    return other


def numbered(table: dict[int, float]) -> list[float]:
    found = [table[key] for key in table]
    table[9] = 0.5
    return found + [float(key) for key in table.keys()] + [table[9]]  # noqa: SIM118


def tuples(pair: tuple[int, float], more: tuple[int, tuple[str, int]]) -> tuple[float, int, str, int, bool, int]:
    a, b = pair
    number, (word, count) = more
    a, count = count, a
    both = (a, number)
    return b + a, count, word + str(len(pair)), both[-1], both == (4, 1), both[0] + pair[0]


class Point(NamedTuple):
    """Two numbers and a name."""

    x: int
    y: float = 0.5
    name: str = "p"


def named_tuples(x: int) -> tuple[Point, float, str]:
    first, second = Point(x), Point(y=2.5, x=x + 1, name="q")
    return Point(first.x + second.x, first.y), first.y + second[1], first.name + second.name


def optionals(a: int | None, b: str | None, c: list[int] | None = None) -> list[int]:
    found = [0 if a is None else a + 1, len(b) if b is not None else -1]
    if a is not None and a > 2:
        found.append(a)
    if c is None:
        c = [5]
    c.append(6)
    return found + c


def defaults(a: int, b: int = 4, c: float = 0.5, d: str = "x") -> float:
    return a - b * c + len(d)


def called(a: int) -> list[float]:
    return [defaults(a), defaults(a, 1), defaults(a, c=2.0), defaults(b=7, a=a, d="long"), number_of(a)]


def number_of(a: int) -> float:
    return a * 3 + math.inf if a < 0 else a * 3 + math.pi


def early(items: list[int], limit: int) -> int:
    for place, item in enumerate(items):
        if item > limit:
            return place
        if item < 0:
            continue
        for other in range(item):
            if other == 3:
                return -item
    return len(items) + 100


def whiles(n: int) -> list[int]:
    found: list[int] = []
    while True:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        if n == 1 or len(found) > 20:
            break
        if n % 5 == 0:
            continue
        found.append(n)
    count = 0
    while count < 3:
        count += 1
    return found + [count]


def recursive(n: int) -> int:
    return factorial(n) + n


def factorial(n: int) -> int:
    product = 1
    for k in range(2, n + 1):
        product *= k
    return product


def raised(n: int) -> int:
    if n == 1:
        raise ValueError("one is too few")
    if n == 2:
        raise RuntimeError("two is refused")
    return n


def numbers_of(x: Tensor) -> list[float]:
    n = int(x[0])
    return [float(x.sum()), float(n), float(x.size(0)), float(len(x)), float(x.dim()),
            float(bool(x[0] > 1)), float(x.numel() // 2), float(x.shape[0] * 2), float(list(x.shape)[0]),
            1.0 if x.is_floating_point() else 0.0, 1.0 if x.dtype == torch.float32 else 0.0]  # fmt: skip


def arithmetic(x: Tensor, n: int, r: float) -> list[Tensor]:
    return [x + n, n + x, x - r, r - x, x * n, n * x, x / n, n / x, x // n, x % n, x**n, n**x, -x, abs(x), x > n,
            r <= x, x == n, (x > n) & (x < r), ~(x > n), x * n + r, x / r, r / x, x // r, x % r, x + n * r]  # fmt: skip


def indexed(x: Tensor, i: int) -> list[Tensor]:
    rows = torch.tensor([1, 0], device=x.device)
    return [x[0], x[-1], x[i], x[i, 1], x[:, i], x[..., -1], x[None], x[1:, ::2], x[rows], x[:, rows], x[x > 2],
            x[i:], x[:i], x[i : i + 1, None], x[rows, rows], x[i][1:], x.t()[i], x[-i:, ..., 1:]]  # fmt: skip


def written(x: Tensor, i: int) -> list[Tensor]:
    a, b, c, d = x.clone(), x.clone(), x.clone(), x.clone()
    a[i] = 9
    a[:, -1] += 1
    b[b > 2] = -1
    b[0, 1:] *= 3
    c += 1
    c *= c
    c -= x
    c /= 2
    d[:, 0], d[0] = x[:, 1], 7
    rows = [a[0], b[0]]
    rows[0] = rows[1] + 1
    rows[1].add_(5)
    return [a, b, c, d, rows[0], rows[1]]


def gathered(x: Tensor) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    pieces = [row * place for place, row in enumerate(x)]
    table = {"sum": torch.zeros_like(x[0]), "last": x[-1]}
    for piece in pieces:
        table["sum"] = table["sum"] + piece
    first, rest = x[0], x[1:]
    return torch.stack(pieces[::-1]), [first, rest], table


#: Arguments for each function: lists and dicts are copied, tensors are 3 x 3 of one to nine, or their first row.
WHOLE, ROW = "whole", "row"
CALLS = (
    (integers, [(7, 3), (-7, 3), (7, -3), (-9, -4), (0, 5)]),
    (floats, [(7.5, 2.0), (2.5, 0.75), (0.5, 3.0), (3.5, 1.5)]),
    (mixed, [(3, 2.5), (-2, 3.0), (1, 0.5)]),
    (comparisons, [(1, 2, 1.0), (4, 4, 0.0), (-3, 0, -3.5), (0, -1, 0.5)]),
    (short_circuits, [([],), ([1],), ([5, 3],), ([-1, 0, 4],)]),
    (words, [("banana", "Bread"), ("abba", "ad")]),
    (looked_up, [("banana", "Bread"), ("b", "ad"), ("123", "banana")]),
    (lists, [([4, 1, 3],), ([2, 4, 4, 0, 9],)]),
    (nested, [([[1, 2], [3], []],)]),
    (dicts, [({"a": 1, "b": 2},), ({"b": 7, "long": 3, "a": -2},)]),
    (numbered, [({3: 0.25, 1: 4.0},)]),
    (tuples, [((1, 0.5), (1, ("w", 4))), ((3, -2.0), (0, ("", 2)))]),
    (named_tuples, [(2,), (-1,)]),
    (optionals, [(None, None), (2, "abc"), (5, "", [1])]),
    (called, [(2,), (-3,), (0,)]),
    (early, [([1, 2, 9, 4], 5), ([-1, 2, 4], 5), ([], 1), ([0, 1], 5)]),
    (whiles, [(6,), (27,), (2,)]),
    (recursive, [(0,), (1,), (6,)]),
    (raised, [(1,), (2,), (3,)]),
    (numbers_of, [(ROW,)]),
    (arithmetic, [(WHOLE, 2, 2.5), (WHOLE, -3, 0.5)]),
    (indexed, [(WHOLE, 1), (WHOLE, 2)]),
    (written, [(WHOLE, 1), (WHOLE, 0)]),
    (gathered, [(WHOLE,)]),
)
