"""Run as a script: import the packages named in sys.argv beside torch and use one compiled operator of each.

Before each package a line ``{"start": name}`` is printed and after it ``{"package": name, "error": null or text}``, so
that whoever reads the output knows which one ended the process.
"""

from __future__ import annotations

import json
import sys

import torch


def torchvision() -> None:
    import torchvision.ops

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    require(kept.tolist() == [0, 2], f"nms kept {kept.tolist()}, expected [0, 2]")


def torchaudio() -> None:
    import torchaudio.functional

    # y[n] = x[n] + y[n-1]: a running sum, computed by the compiled recursion
    ones, one, minus = torch.ones(1, 4), torch.tensor([1.0, 0.0]), torch.tensor([1.0, -1.0])
    summed = torchaudio.functional.lfilter(ones, minus, one, clamp=False)
    require(summed.tolist() == [[1, 2, 3, 4]], f"lfilter gave {summed.tolist()}, expected a running sum")


def torchtext() -> None:
    import torchtext.vocab

    words = torchtext.vocab.build_vocab_from_iterator([["b", "a", "a"]], specials=["<unk>"])
    require(words.lookup_indices(["<unk>", "a", "b"]) == [0, 1, 2], "the vocabulary is out of order")


def triton() -> None:
    import triton.language
    from triton._C import libtriton

    require(hasattr(triton.language, "program_id"), "triton.language lacks program_id")
    require(hasattr(libtriton, "ir"), "the compiled part of triton lacks its ir module")


def onnx() -> None:
    import onnx.checker
    import onnx.helper

    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value("x")], [value("y")])
    onnx.checker.check_model(onnx.helper.make_model(graph))  # the checker is the compiled part
    broken = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["no"], ["y"])], "g", [value("x")], [value("y")])
    try:
        onnx.checker.check_model(onnx.helper.make_model(broken))
    except onnx.checker.ValidationError:
        return
    raise RuntimeError("onnx.checker accepted a graph whose node reads an unknown value")


def value(name: str) -> object:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2])


def onnxscript() -> None:
    from onnxscript import opset18, script

    @script(default_opset=opset18)
    def double(x):
        return opset18.Add(x, x)

    nodes = [node.op_type for node in double.to_function_proto().node]
    require(nodes == ["Add"], f"a scripted addition became the nodes {nodes}")


#: An ONNX model, y = x + x for a vector of 64-bit integers (IR version 8, opset 13).
DOUBLE = bytes.fromhex(
    "080812003a360a0e0a01780a017812017922034164641206646f75626c655a0d0a017812080a06080712020a00620d0a0179"
    "12080a06080712020a0042040a00100d"
)


def onnxruntime() -> None:
    import numpy
    import onnxruntime

    session = onnxruntime.InferenceSession(DOUBLE, providers=["CPUExecutionProvider"])
    (doubled,) = session.run(None, {"x": numpy.array([1, -2, 2**40])})
    require(doubled.tolist() == [2, -4, 2**41], f"x + x gave {doubled.tolist()}")


def require(condition: bool, message: str) -> None:
    """Raise where an assert statement could have been optimised away."""
    if not condition:
        raise RuntimeError(message)


def main(names: list[str]) -> None:
    """Use each package in turn; an error of one does not keep the next from its turn."""
    for name in names:
        print(json.dumps({"start": name}), flush=True)
        error = None
        try:
            globals()[name]()
        except Exception as problem:  # any error at all is what the caller asks about
            error = f"{type(problem).__name__}: {problem}"
            if problem.__cause__ is not None:
                error += f" (because of {type(problem.__cause__).__name__}: {problem.__cause__})"
        print(json.dumps({"package": name, "error": error}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
