"""Functions and modules that Python runs and TorchScript refuses, with what its errors must point at."""

import torch
from torch import Tensor, nn


def apply(function, x):
    return function(x)


def rejected_yield(x):
    y = x + 1
    yield y


def rejected_lambda(x):
    y = x + 1
    return apply(lambda z: z + z, y)


def rejected_try(x):
    y = x + 1
    try:
        return y * 2
    except ValueError:
        return y


def rejected_import(x):
    import math

    return x * math.pi


def rejected_global(x):
    y = x + 1
    global COUNTER
    COUNTER = 1
    return y


def rejected_keywords(x, **options):
    return x


def rejected_method(x):
    y = x + 1
    return y.no_such_thing()


def rejected_type_change(x):
    y = 1
    if bool(x.sum() > 0):
        y = "one"
    return y


def rejected_argument(x: Tensor):
    y = x + 1
    return torch.relu(y, "fast")


def rejected_return(x: Tensor) -> str:
    return x + 1


#: Function, words of the reason, the line pointed at and something that is underlined in it.
FUNCTIONS = {
    "yield": (rejected_yield, "Yield aren't supported", "yield y", "y"),
    "lambda": (rejected_lambda, "Lambda aren't supported", "return apply(lambda z: z + z, y)", "l"),
    "try": (rejected_try, "try blocks aren't supported", "try:", "try"),
    "import": (rejected_import, "import statements aren't supported", "import math", "import"),
    "global": (rejected_global, "global variables aren't supported", "global COUNTER", "global"),
    "keywords": (rejected_keywords, "variable number of arguments", "def rejected_keywords(x, **options):", "options"),
    "method": (rejected_method, "no_such_thing", "return y.no_such_thing()", "y.no_such_thing"),
    "type change": (rejected_type_change, "previously had type int", 'y = "one"', "y"),
    "argument": (rejected_argument, "relu", 'return torch.relu(y, "fast")', "torch.relu"),
    "return": (rejected_return, "annotated as having type str", "return x + 1", "return x + 1"),
}


class Caller(nn.Module):
    """Calls a function that does not compile."""

    def forward(self, x):
        return rejected_method(x + 1)


class Method(nn.Module):
    """Calls a method that tensors do not have."""

    def forward(self, x):
        y = x + 1
        return y.no_such_thing()
