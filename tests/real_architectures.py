"""Are the parity helpers right about real architectures? Their verdicts beside those of plain torch calls.

``python -m tests.real_architectures [trace,state [part of a name ...]]`` prints one row per architecture and form:
``same`` where a helper agrees, refuses or finds nothing to see exactly where a few plain lines of torch do, ``DIFF``
and both verdicts where not. All weights are random; libraries that are not installed are left out. It takes minutes.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

import pytest_torchcheck as tc
from pytest_torchcheck.assertions import nests

IMAGES, SERIES = torch.randn(2, 3, 64, 64), torch.randn(2, 5, 8)
TOKENS, MASK = torch.randint(0, 90, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
WORDS = {**SMALL, "vocab_size": 100}


class Inside(nn.Module):
    """A module inside another, which torch.jit.script wants of recurrent layers."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


class Twice(Inside):
    """Hand the input over as source and target."""

    def forward(self, x):
        return self.module(x, x)


class Thrice(Inside):
    """Hand the input over as query, key and value."""

    def forward(self, x):
        return self.module(x, x, x)


def torchvision(name, **options):
    """Return a torchvision model with random weights."""
    import torchvision.models as library

    return getattr(library, name)(weights=None, num_classes=10, **options)


def torchvision_class(name, *arguments):
    """Return a model of a torchvision class, smaller than the ready-made ones."""
    import torchvision.models as library

    return getattr(library, name)(*arguments)


def timm(name, **options):
    """Return a timm model with random weights."""
    import timm as library

    return library.create_model(name, num_classes=10, **options)


def transformer(name, config, **options):
    """Return a transformers model with random weights from a small config."""
    import transformers as library

    return getattr(library, name)(getattr(library, config)(**options))


def own_layers():
    """Return the architectures of torch.nn."""

    def layer():
        return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def stack():
        return [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.GELU(), nn.ConvTranspose2d(8, 4, 3)]

    def gru():
        return nn.GRU(8, 6, 2, batch_first=True, bidirectional=True, dropout=0.2)

    return {
        "nn.RNN": (lambda: Inside(nn.RNN(8, 6, batch_first=True)), SERIES),
        "nn.LSTM": (lambda: Inside(nn.LSTM(8, 6, batch_first=True)), SERIES),
        "nn.GRU": (lambda: Inside(gru()), SERIES),
        "nn.MultiheadAttention": (lambda: Thrice(nn.MultiheadAttention(8, 2, batch_first=True)), SERIES),
        "nn.TransformerEncoder": (lambda: nn.TransformerEncoder(layer(), 2), SERIES),
        "nn.Transformer": (lambda: Twice(nn.Transformer(8, 2, 1, 1, 16, batch_first=True)), SERIES),
        "nn.EmbeddingBag": (lambda: nn.Sequential(nn.EmbeddingBag(100, 8), nn.Linear(8, 3)), TOKENS),
        "nn.Conv2d and norms": (lambda: nn.Sequential(*stack(), nn.GroupNorm(2, 4), nn.AdaptiveAvgPool2d(4)), IMAGES),
    }


def libraries():
    """Return the architectures of torchvision, timm and transformers."""
    names = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "efficientnet_b0")
    found = {f"torchvision.{name}": (lambda name=name: torchvision(name), IMAGES) for name in names}
    found["torchvision.googlenet"] = (lambda: torchvision("googlenet", init_weights=False), IMAGES)
    vit, swin = (64, 16, 2, 2, 32, 64), ([4, 4], 16, [1, 1], [2, 2], [4, 4])
    found["torchvision.VisionTransformer"] = (lambda: torchvision_class("VisionTransformer", *vit), IMAGES)
    found["torchvision.SwinTransformer"] = (lambda: torchvision_class("SwinTransformer", *swin), IMAGES)
    names = ("resnet10t", "convnext_atto", "mobilenetv4_conv_small")
    found |= {f"timm.{name}": (lambda name=name: timm(name), IMAGES) for name in names}
    found["timm.vit_tiny"] = (lambda: timm("vit_tiny_patch16_224", img_size=64, depth=2), IMAGES)
    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 100, "use_cache": False}
    distil = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "vocab_size": 100}
    t5 = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 100}
    llama = {**WORDS, "num_key_value_heads": 1, "use_cache": False}
    for name, config, options, example in [
        ("BertModel", "BertConfig", WORDS, TOKENS),
        ("DistilBertModel", "DistilBertConfig", distil, TOKENS),
        ("GPT2LMHeadModel", "GPT2Config", gpt, TOKENS),
        ("T5EncoderModel", "T5Config", t5, TOKENS),
        ("LlamaForCausalLM", "LlamaConfig", llama, TOKENS),
        ("ViTModel", "ViTConfig", {**SMALL, "image_size": 64, "patch_size": 16}, IMAGES),
    ]:
        made = (lambda name=name, config=config, options=options: transformer(name, config, **options), example)
        found[f"transformers.{name}"] = made
    return found


def others(x, sizes):
    """Return other values, and where ``sizes`` says so another batch size."""
    other = torch.randn(x.shape) if x.is_floating_point() else x.flip(0)
    return [other, torch.cat([x, other, x[:1]])] if sizes else [other]


def agrees(model, form, inputs):
    """Return the plain verdict: whether all tensors that come out are close."""
    for x in inputs:
        pairs = []
        for function in (model, form):
            torch.manual_seed(1)
            pairs.append([one for _, one in nests.tensors(function(x))])
        actual, expected = pairs[1], pairs[0]
        scale = max([float(one.abs().max()) for one in expected if one.is_floating_point()], default=1.0)
        close = (torch.allclose(a, b, rtol=1e-3, atol=1e-4 * scale) for a, b in zip(actual, expected, strict=False))
        if not expected or len(actual) != len(expected) or not all(close):
            return "differs"
    return "agrees"


def plain_script(model, x):
    """Compare by hand what is scripted."""
    return agrees(model, torch.jit.script(model), [x, *others(x, sizes=True)])


def plain_trace(model, x):
    """Compare by hand what is traced."""
    traced = torch.jit.trace(model, x, strict=False, check_trace=False)
    return agrees(model, traced, [x, *others(x, sizes=True)])


def plain_export(model, x):
    """Compare by hand what is exported."""
    return agrees(model, torch.export.export(model, (x,)).module(), [x, *others(x, sizes=False)])


def plain_compile(model, x):
    """Compare by hand what is compiled, and count the operators that were captured."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    verdict = agrees(model, torch.compile(model, backend=counter), [x])
    return verdict if counter.op_count else "vacuous"


def plain_onnx(model, x):
    """Compare by hand what ONNX Runtime computes."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path)
        name = session.get_inputs()[0].name
        run = lambda x: [torch.as_tensor(one) for one in session.run(None, {name: x.numpy()})]  # noqa: E731
        return agrees(model, run, [x, *others(x, sizes=False)])


def plain_state(model, x):
    """Compare by hand a fresh instance that loads the state dict."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.save(model.state_dict(), path)
        other = MAKE[id(model)]().eval()
        other.load_state_dict(torch.load(path))
        return agrees(model, other, [x, *others(x, sizes=False)])


#: id of a model -> what makes another one of its kind
MAKE = {}
PLAIN = {name.removeprefix("plain_"): function for name, function in list(globals().items()) if name[:6] == "plain_"}
LIGHT = {"modes": ("eval",), "gradients": False}
OURS = {
    "script": lambda model, x: tc.assert_script_parity(model, x, **LIGHT),
    "trace": lambda model, x: tc.assert_trace_parity(model, x, **LIGHT),
    "export": lambda model, x: tc.assert_export_parity(model, x, **LIGHT),
    "compile": lambda model, x: tc.assert_compile_parity(model, x, backend="aot_eager", other_args=[], **LIGHT),
    "onnx": lambda model, x: tc.assert_onnx_parity(model, x),
    "state": lambda model, x: tc.assert_state_dict_roundtrip(model, x, make_model=MAKE[id(model)]),
}


def plain_verdict(kind, model, x):
    """Return what the plain lines show, and torch's own reason where it refuses."""
    try:
        with torch.no_grad():
            return PLAIN[kind](model, x), ""
    except Exception as error:
        return "refused", f"{type(error).__name__}: {str(error)[:100]}"


def our_verdict(kind, model, x):
    """Return the verdict of the helper, and its text where it raises."""
    try:
        OURS[kind](model, x)
    except tc.VacuousCheckError as error:
        return "vacuous", str(error)
    except AssertionError as error:
        return ("refused" if "cannot be" in str(error).splitlines()[0] else "differs"), str(error)
    return "agrees", ""


def main(kinds, parts):
    """Print a row for each architecture whose name has one of ``parts`` in it, and each of ``kinds``."""
    warnings.simplefilter("ignore")
    for name, (make, x) in {**own_layers(), **libraries()}.items():
        if parts and not any(part in name for part in parts):
            continue
        torch.manual_seed(0)
        try:
            model = make().eval()
        except ModuleNotFoundError as error:
            print("left out", name, f"{error.name} is not installed")
            continue
        MAKE[id(model)] = make
        for kind in kinds:
            (plain, why), (ours, text) = plain_verdict(kind, model, x), our_verdict(kind, model, x)
            detail = " ".join((why if plain == ours else f"{why} {text}").split())
            print("same" if plain == ours else "DIFF", name, kind, plain, ours, detail, flush=True)


if __name__ == "__main__":
    main(sys.argv[1].split(",") if len(sys.argv) > 1 else list(OURS), sys.argv[2:])
