"""On real architectures with random weights each helper's verdict is what plain torch calls show.

torch's own run everywhere; those of torchvision, timm and transformers where these are installed.
"""

import copy

import pytest
import torch
from torch import nn

import pytest_torchcheck as tc
from pytest_torchcheck.assertions import nests
from pytest_torchcheck.assertions.backward import SEED, weighted_sum
from pytest_torchcheck.assertions.calls import fresh

#: name -> function that returns (model, args, kwargs)
ARCHITECTURES = {}
#: Verdicts that differ from what plain calls show, each with its reason.
EXPLAINED = {
    ("torchvision vgg11_bn", "gradients_flow"): "biases before BatchNorm: plain gradients hold nothing but rounding",
    ("timm mixer_s32_224", "batch_independent"): "the head starts at zero: all samples give zeros, which prove nothing",
}
TINY = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def images(size=64):
    return torch.randn(2, 3, size, size)


def own(name, make):
    ARCHITECTURES[f"torch {name}"] = lambda: (*make(), {})


def torchvision(name, size=64, **options):
    def make():
        models = pytest.importorskip("torchvision.models", exc_type=ImportError)
        return models.get_model(name, weights=None, **options), (images(size),), {}

    ARCHITECTURES[f"torchvision {name}"] = make


def timm(name, size=64, **options):
    def make():
        library = pytest.importorskip("timm", exc_type=ImportError)
        return library.create_model(name, pretrained=False, **options), (images(size),), {}

    ARCHITECTURES[f"timm {name}"] = make


def transformers(name, config, inputs=lambda: {"input_ids": torch.randint(5, 50, (2, 7))}, **options):
    def make():
        library = pytest.importorskip("transformers", exc_type=ImportError)
        return getattr(library, name)(getattr(library, config)(**options)), (), inputs()

    ARCHITECTURES[f"transformers {name}"] = make


ROWS = (2, 5, 8)
own(
    "Transformer",
    lambda: (nn.Transformer(8, 2, 1, 1, 16, batch_first=True), (torch.randn(2, 5, 8), torch.randn(2, 4, 8))),
)
own(
    "TransformerEncoder",
    lambda: (nn.TransformerEncoder(encoder_layer(), 2, enable_nested_tensor=False), (torch.randn(ROWS),)),
)
own(
    "TransformerDecoderLayer",
    lambda: (nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), (torch.randn(ROWS),) * 2),
)
own("RNN", lambda: (nn.RNN(8, 6, batch_first=True), (torch.randn(ROWS),)))
own("LSTM", lambda: (nn.LSTM(8, 6, 2, batch_first=True, dropout=0.2), (torch.randn(ROWS),)))
own("GRU", lambda: (nn.GRU(8, 6, bidirectional=True, batch_first=True), (torch.randn(ROWS),)))
own("LSTMCell", lambda: (nn.LSTMCell(8, 6), (torch.randn(3, 8),)))
own("MultiheadAttention", lambda: (nn.MultiheadAttention(8, 2, batch_first=True), (torch.randn(ROWS),) * 3))
own("Bilinear", lambda: (nn.Bilinear(4, 5, 3), (torch.randn(3, 4), torch.randn(3, 5))))
own(
    "AdaptiveLogSoftmax",
    lambda: (nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10], 2.0), (torch.randn(6, 8), torch.arange(0, 18, 3))),
)


def encoder_layer():
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


for name in ("resnet18", "mobilenet_v3_small", "vgg11_bn", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5"):
    torchvision(name)
for name in ("regnet_y_400mf", "efficientnet_b0", "densenet121", "swin_t"):
    torchvision(name)
torchvision("lraspp_mobilenet_v3_large", weights_backbone=None)
for name in ("resnet10t", "convnextv2_atto", "mobilevit_xxs", "ghostnet_050", "edgenext_xx_small", "lcnet_050"):
    timm(name)
timm("vit_tiny_patch16_224", img_size=64)
timm("mixer_s32_224", 224)
transformers("BertModel", "BertConfig", **TINY)
transformers("RobertaModel", "RobertaConfig", **TINY, max_position_embeddings=40)
transformers("DistilBertModel", "DistilBertConfig", vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
transformers("GPT2LMHeadModel", "GPT2Config", vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=40)
transformers("LlamaForCausalLM", "LlamaConfig", **TINY, num_key_value_heads=1)
transformers("BloomModel", "BloomConfig", vocab_size=60, hidden_size=16, n_layer=2, n_head=2)
transformers("MambaModel", "MambaConfig", vocab_size=60, hidden_size=16, num_hidden_layers=2, state_size=4)
transformers(
    "T5Model",
    "T5Config",
    lambda: {"input_ids": torch.randint(5, 50, (2, 7)), "decoder_input_ids": torch.randint(5, 50, (2, 4))},
    **{"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
)


class Plain:
    """What plain calls of torch show of a model, by the name of the helper that is to say the same."""

    def __init__(self, model, args, kwargs):
        self.model, self.args, self.kwargs = model, args, kwargs
        self.state = copy.deepcopy(model.state_dict())

    def call(self, training, seed=SEED, inputs=None):
        self.model.load_state_dict(self.state)
        self.model.train(training)
        torch.manual_seed(seed)
        args, kwargs = fresh((self.args, self.kwargs) if inputs is None else inputs)
        return self.model(*args, **kwargs)

    def backward(self):
        self.model.zero_grad()
        output = self.call(True)
        generator = torch.Generator().manual_seed(1)
        outputs = [one for _, one in nests.tensors(output) if one.requires_grad]
        sum((one * torch.randn(one.shape, generator=generator)).sum() for one in outputs).backward()

    def gradients_flow(self):
        self.backward()
        grads = [one.grad for one in self.model.parameters()]
        return all(one is not None and bool(one.isfinite().all()) and bool(one.count_nonzero()) for one in grads)

    def training_step(self):
        self.backward()
        before = [one.detach().clone() for one in self.model.parameters()]
        torch.optim.SGD(self.model.parameters(), lr=0.05).step()
        return all(not torch.equal(*pair) for pair in zip(before, self.model.parameters(), strict=True))

    def modes_differ(self):
        return not alike(self.call(True), self.call(False))

    def modes_agree(self):
        return alike(self.call(True), self.call(False))

    def eval_deterministic(self):
        first, second = self.call(False, 1), self.call(False, 2)
        return alike(first, second, 0.0) and all(
            torch.equal(one, self.state[name]) for name, one in self.model.state_dict().items()
        )

    def batch_independent(self):
        whole = self.call(False)
        one = self.call(False, inputs=nests.map_tensors(lambda x: x[:1], (self.args, self.kwargs)))
        pairs = zip(nests.tensors(whole), nests.tensors(one), strict=True)
        return all(alike(first_sample(many, few), few) for (_, many), (_, few) in pairs)

    def layout_invariant(self):
        turned = nests.map_tensors(lambda x: x.mT.contiguous().mT if x.dim() > 1 else x, (self.args, self.kwargs))
        return alike(self.call(False, inputs=turned), self.call(False))

    def deterministic(self):
        return alike(self.call(True), self.call(True), 0.0)


def first_sample(many, few):
    dims = [dim for dim in range(many.dim()) if many.shape[dim] != few.shape[dim]]
    return many.narrow(dims[0], 0, 1) if dims else few


def alike(left, right, allowed=1e-4):
    """Return whether two outputs have one structure and agree up to a part of their largest element."""
    left, right = nests.tensors(left), nests.tensors(right)
    if [path for path, _ in left] != [path for path, _ in right]:
        return False
    pairs = zip(left, right, strict=True)
    return all(
        float((a - b).detach().abs().max()) <= allowed * float(b.detach().abs().max()) for (_, a), (_, b) in pairs
    )


def loss(output, target):
    return weighted_sum(output)


HELPERS = {
    "gradients_flow": lambda model, args, kwargs: tc.assert_gradients_flow(model.train(), args, kwargs),
    "training_step": lambda model, args, kwargs: tc.assert_training_step(
        model.train(), torch.optim.SGD(model.parameters(), lr=0.05), loss, (kwargs or args, None)
    ),
    "modes_differ": tc.assert_modes_differ,
    "modes_agree": tc.assert_modes_agree,
    "eval_deterministic": tc.assert_eval_deterministic,
    "batch_independent": tc.assert_batch_independent,
    "layout_invariant": tc.assert_layout_invariant,
    "deterministic": lambda model, args, kwargs: tc.assert_deterministic(model.train(), args, kwargs),
}


def verdict(helper, *arguments):
    try:
        HELPERS[helper](*arguments)
    except tc.VacuousCheckError:
        return None  # neither: there was nothing to see
    except AssertionError:
        return False
    return True


def size(model):
    return sum(one.numel() for one in model.parameters())


@pytest.mark.filterwarnings("ignore")  # these libraries warn of their own affairs
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_verdicts_are_what_plain_calls_show(name):
    """Every helper passes where plain calls find nothing, and fails where they do; the rest is explained."""
    torch.manual_seed(0)
    model, args, kwargs = ARCHITECTURES[name]()
    plain = Plain(model, args, kwargs)
    expected = {helper: getattr(plain, helper)() for helper in HELPERS}
    model.load_state_dict(plain.state)
    model.zero_grad()
    seen = {helper: verdict(helper, model, args, kwargs) for helper in HELPERS}
    differing = {helper for helper in HELPERS if seen[helper] != expected[helper]}
    assert differing == {helper for one, helper in EXPLAINED if one == name}
    if size(model) < 100_000:
        tc.assert_gradcheck(model.train(), args, kwargs, elements=1)


def test_there_are_architectures_enough():
    """At least twenty-five architectures are tried where all libraries are installed."""
    assert len(ARCHITECTURES) >= 25
