"""The functions of the zoo. TorchScript reads this source: keep to what it knows. Their twins: ``zoo_twins.py``."""

import torch
import torch.nn.functional as F
from torch import Tensor


def softmaxes(x: Tensor) -> list[Tensor]:
    return [x.softmax(0), x.softmax(1), torch.softmax(x, -1), F.log_softmax(x, 1), F.softmin(x, dim=2), F.glu(x, 1)]


def sums(x: Tensor) -> list[Tensor]:
    return [x.sum(), x.sum(0), x.sum(1, keepdim=True), x.mean(-1), x.mean((0, 2), keepdim=True), (x / 2).prod(1),
            x.cumsum(1), x.cumsum(-1), torch.logsumexp(x, 1), torch.norm(x, dim=1)]  # fmt: skip


def spreads(x: Tensor) -> list[Tensor]:
    return [x.var(1), x.var(2, unbiased=False), x.std(1), torch.var(x, dim=[1, 2], keepdim=True)]


def extremes(x: Tensor) -> list[Tensor]:
    values, places = x.max(1)
    ordered, order = x.sort(-1, descending=True)
    top, tops = torch.topk(x, 2, 1)
    return [x.amax(1), x.amin(2, keepdim=True), values, places, x.argmin(2), ordered, order, top, tops,
            torch.maximum(x, -x[:, :1])]  # fmt: skip


def parts(x: Tensor) -> list[Tensor]:
    first, second = x.chunk(2, 1)
    left, right = torch.split(x, [2, 4], 2)
    return [x[:, 1], x[:, -1], x[:, ::2], x[:, 1:, -3:], x[..., 1:5:2], first - second, left[:, :, 0] * right[:, :, 3],
            x.narrow(2, 1, 3), x.unbind(1)[2], x.diagonal(0, 1, 2), x[:, None, 2]]  # fmt: skip


def moved(x: Tensor) -> list[Tensor]:
    return [x.flip(1), x.flip([1, 2]), x.roll(2, 1), x.transpose(1, 2).reshape(-1, 24), x.permute(2, 0, 1),
            x.repeat(1, 2, 1), x[:, :1].expand(-1, 3, -1) * 2, torch.cat([x, x[:, :1] + 1], 1), torch.stack([x, -x], 2),
            x.reshape(-1, 3, 2, 4).sum(2), x.unsqueeze(2).squeeze(2), x.flatten(1), x.tril(1), x.triu(-1)]  # fmt: skip


def padded(x: Tensor) -> list[Tensor]:
    return [F.pad(x, [1, 2], value=3.0), F.pad(x, [2, 1], mode="reflect"), F.pad(x, [1, 3], mode="replicate"),
            F.pad(x, [-1, 1, 0, 2])]  # fmt: skip


def chosen(x: Tensor) -> list[Tensor]:
    rows = (torch.arange(3, device=x.device) - 1).abs() * 2  # 2, 0, 2
    places = (x * 8).long() % 6
    return [x[:, rows], x.index_select(1, rows), torch.gather(x, 2, places), torch.where(x > 0, x * 2, x - 1),
            x.masked_fill(x < 0, -7.0), x.clamp(-1.0, 0.5), torch.clamp(x, min=0.25), x * (x.abs() > 1)]  # fmt: skip


def written(x: Tensor) -> list[Tensor]:
    y = x.clone()
    y[:, 1] += 2
    y[:, :, ::2] = 0.5
    z = x * 1
    z.mul_(3).add_(x)
    z[:, 0].sub_(1)
    order = x.argsort(2)
    return [y, z, torch.zeros_like(x).scatter(2, order, x * 2)]


def numbers(x: Tensor) -> list[Tensor]:
    return [x - 2, 2 - x, 1 / (x * x + 1), x**2, x**3, 2**x, x.detach() // 0.5, x % 0.75, -x, x.abs() ** 0.5, x / 4,
            x.round(), x.floor(), x.ceil(), x.sign(), x.square(), x.reciprocal() * x]  # fmt: skip


def curves(x: Tensor) -> list[Tensor]:
    positive = x.abs() + 0.5
    return [x.exp(), positive.log(), positive.sqrt(), positive.rsqrt(), x.sin(), x.cos(), x.atan(), x.erf(), x.tanh(),
            x.sigmoid(), torch.log1p(positive), positive.log2()]  # fmt: skip


def rare(x: Tensor) -> list[Tensor]:
    return [x.trunc(), x.sinh(), torch.expm1(x), F.threshold(x, 0.5, -2.0), F.rms_norm(x, [6], eps=0.125)]


def bent(x: Tensor) -> list[Tensor]:
    return [F.gelu(x), F.gelu(x, approximate="tanh"), F.elu(x, 0.5), F.celu(x, 0.25), F.leaky_relu(x, 0.3),
            F.softplus(x, 2.0), F.hardtanh(x, -0.5, 1.5), F.relu6(x * 4), F.silu(x), F.mish(x), F.selu(x),
            F.hardsigmoid(x), F.logsigmoid(x), F.softsign(x), F.hardswish(x * 2)]  # fmt: skip


def compared(x: Tensor) -> list[Tensor]:
    big = x.abs() > 1
    return [x > 0, x <= 0.5, big & (x > 0), big | (x < 0), ~big, big.any(1), big.all(2), torch.isnan(x), big.sum(1),
            x == x.amax(1, keepdim=True)]  # fmt: skip


def converted(x: Tensor) -> list[Tensor]:
    whole = (x * 3).to(torch.int64)
    return [whole, whole.float() / 2, (x > 0).float(), whole * 2 + 1, whole / 4, x.double().float() * 2,
            x.to(torch.bool),
            whole + 0.5, whole.sum(1), whole.clamp(-2, 3), (x > 0).long() - 1]  # fmt: skip


def sized(x: Tensor) -> list[Tensor]:
    count, length = x.size(0), x.shape[2]
    steps = torch.arange(length, device=x.device)
    return [x * length - count, x + steps, torch.zeros_like(x) + 2, torch.ones(count, 3, device=x.device) * count,
            torch.full([count, 2], 1.5, device=x.device), x.view(count, -1), steps * 2]  # fmt: skip


def products(x: Tensor) -> list[Tensor]:
    y = x.transpose(1, 2)
    return [x @ y, torch.bmm(y, x), x.matmul(y[0]), torch.einsum("nij,nkj->nik", x, x * 2), x[:, 0] @ x[:, 1].t(),
            torch.baddbmm(x[:, :, :4], x, y, beta=2.0, alpha=0.5),
            torch.addmm(x[0, :, 0], x[:, :, 1], y[0, :4])]  # fmt: skip


def attended(x: Tensor) -> list[Tensor]:
    kept = torch.ones(4, 4, device=x.device).tril() > 0
    bias = torch.arange(16, device=x.device).reshape(4, 4) / 8.0
    y = x[:, None]  # one head
    return [F.scaled_dot_product_attention(y, y, y), F.scaled_dot_product_attention(y, y, y, attn_mask=kept),
            F.scaled_dot_product_attention(y, y, y, attn_mask=bias),
            F.scaled_dot_product_attention(y, y, y, is_causal=True)]  # fmt: skip


def looped(x: Tensor) -> list[Tensor]:
    total = torch.zeros_like(x[:, 0])
    for row in range(x.size(1)):
        if row == 2:
            continue
        total = total * 0.5 + x[:, row]
    return [total]


def pictured(x: Tensor) -> list[Tensor]:
    return [x.mean((2, 3)), x.amax((2, 3), keepdim=True), x.sum(1), x.permute(0, 2, 3, 1), x.flatten(2).transpose(1, 2),
            x[:, :, 1:-1, ::2], x.softmax(2), x.var((2, 3)), F.max_pool2d(x, 2),
            F.avg_pool2d(x, [2, 3], stride=[1, 2]),
            F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False),
            F.interpolate(x, size=[5, 9], mode="bilinear", align_corners=True),
            F.layer_norm(x, [7, 6], eps=0.125)]  # fmt: skip


def channels_last(x: Tensor) -> list[Tensor]:
    y = x.contiguous(memory_format=torch.channels_last)
    return [y * 2 + x, y.sum((2, 3)), y.flatten(1), F.avg_pool2d(y, 3, 2), F.max_pool2d(y, 3, 2, 1), y.mean(1)]


def counted(x: Tensor) -> list[Tensor]:
    return [x // 3, x % 4, (x - 5) // 2, (x - 5) % 3, x / 2, x * x, x.sum(1), x.cumsum(1), x.float().mean(1), x == 3,
            (x > 3) & (x < 8), x.amax(1), F.one_hot(x, 11), x & 6, x | 1, x ^ 3, x << 2, x >> 1,
            x.max(1)[1] * 0 + x[:, 2], (x - 5).abs(), (5 - x).clamp(min=0)]  # fmt: skip


SERIES = {
    function.__name__: function
    for function in (
        *(softmaxes, sums, spreads, extremes, parts, moved, padded, chosen, written, numbers, curves, compared),
        *(bent, converted, sized, products, attended, looped, rare),
    )
}
PICTURES = {function.__name__: function for function in (pictured, channels_last)}
WORDS = {"counted": counted}
