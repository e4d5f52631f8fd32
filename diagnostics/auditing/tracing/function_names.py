"""Names of torch functions by what they do with the numbers of their arguments."""

from __future__ import annotations

RESHAPES = frozenset(
    [
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "transpose",
        "permute",
        "swapaxes",
        "movedim",
        "t",
        "contiguous",
        "clone",
        "float",
        "double",
        "to",
        "type_as",
        "getitem",
        "chunk",
        "split",
        "expand",
        "narrow",
        "select",
    ]
)
"""Functions whose result holds the numbers of their first argument, by their plain names."""
PASSES = RESHAPES | {"detach", "type", "half", "bfloat16", "long", "int", "cat", "stack"}
"""The same, with those that round, that end the graph, or that join several tensors."""
ARITHMETIC = frozenset(
    [
        "add",
        "sub",
        "mul",
        "div",
        "truediv",
        "true_divide",
        "multiply",
        "subtract",
        "divide",
        "neg",
        "negative",
        "pow",
        "square",
        "sqrt",
        "abs",
        "sum",
        "mean",
        "exp",
        "log",
        "clamp",
        "clip",
        "minimum",
        "maximum",
        "min",
        "max",
        "where",
        "addcmul",
        "lerp",
        "masked_fill",
    ]
)
"""Functions whose result is computed from all numbers of their arguments."""
LIMITS = frozenset(("clamp", "clip"))
PRODUCTS = frozenset(("mul", "multiply"))
DIFFERENCES = frozenset(("sub", "subtract"))
QUOTIENTS = frozenset(("div", "truediv", "true_divide", "divide"))


def plain_name(name: str) -> str:
    """The name of a function without the marks of its variants: `__rsub__`, `sub_` and `isub` are `sub`."""
    short = name.strip("_")
    for mark in ("r", "i"):
        if short.removeprefix(mark) in ARITHMETIC and short not in ARITHMETIC:
            return short.removeprefix(mark)
    return short
