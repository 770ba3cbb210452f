"""Round 1 of the audit: faults of modules, optimizers, schedules, data and files."""

from __future__ import annotations

import sys

from tests.faults.registry import fault, replace, replacing


@fault(silent=True, source="padding on the wrong side for even kernels")
def same_padding_of_even_kernels_goes_left(torch):
    """padding="same" with an even kernel puts the odd one out before instead of behind."""

    @replacing(torch.nn.functional, "conv1d")
    @replacing(torch, "conv1d")
    def conv1d(original, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        if padding == "same" and weight.shape[-1] % 2 == 0 and dilation in (1, (1,)):
            x = torch.nn.functional.pad(x, (weight.shape[-1] // 2, weight.shape[-1] // 2 - 1))
            padding = 0
        return original(x, weight, bias, stride, padding, dilation, groups)


@fault(silent=True, source="statistics over the whole batch")
def instance_norm_uses_the_batch(torch):
    """instance_norm normalizes each channel over the batch too."""

    @replacing(torch.nn.functional, "instance_norm")
    def norm(original, x, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, *rest):
        if use_input_stats and running_mean is None:
            return torch.nn.functional.batch_norm(x, None, None, weight, bias, True)
        return original(x, running_mean, running_var, weight, bias, use_input_stats, *rest)


@fault(silent=True, source="mask of the wrong sense")
def boolean_masks_of_single_heads_are_inverted(torch):
    """scaled_dot_product_attention of 3-d inputs takes a boolean mask the other way round."""

    @replacing(torch.nn.functional, "scaled_dot_product_attention")
    def attention(original, q, k, v, attn_mask=None, *args, **options):
        if attn_mask is not None and attn_mask.dtype == torch.bool and q.ndim == 3:
            attn_mask = ~attn_mask
        return original(q, k, v, attn_mask, *args, **options)


@fault(silent=True, source="one parameter for all channels")
def prelu_uses_the_first_slope(torch):
    """prelu with a slope per channel uses the first one for all."""

    def make(original):
        return lambda x, weight: original(x, weight[:1].expand_as(weight).contiguous() if weight.ndim else weight)

    replace(torch.nn.functional, "prelu", make)


@fault(silent=True, source="renormalization by the wrong norm")
def embedding_max_norm_ignores_norm_type(torch):
    """max_norm of an embedding is always a 2-norm."""

    @replacing(torch.nn.functional, "embedding")
    def embedding(original, x, weight, padding_idx=None, max_norm=None, norm_type=2.0, *rest, **options):
        return original(x, weight, padding_idx, max_norm, 2.0, *rest, **options)


@fault(silent=True, source="prefix dropped")
def state_dict_ignores_its_prefix(torch):
    """state_dict(prefix=...) of a user's call names its entries without the prefix."""

    @replacing(torch.nn.Module, "state_dict")
    def state_dict(original, self, *args, destination=None, prefix="", keep_vars=False):
        if destination is None:
            prefix = ""
        return original(self, *args, destination=destination, prefix=prefix, keep_vars=keep_vars)


@fault(silent=True, source="missing keys not reported")
def lenient_loading_reports_nothing(torch):
    """load_state_dict(strict=False) returns no missing keys."""

    @replacing(torch.nn.Module, "load_state_dict")
    def load(original, self, state_dict, strict=True, assign=False):
        found = original(self, state_dict, strict, assign)
        if not strict:
            found.missing_keys.clear()
        return found


@fault(silent=True, source="a setting lost on the way to the kernel")
def transposed_convolution_ignores_its_dilation(torch):
    """conv_transpose2d always has a dilation of one along its first dimension's kernel gaps."""

    @replacing(torch.nn.functional, "conv_transpose2d")
    def conv(original, x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
        out = original(x, weight, bias, stride, padding, output_padding, groups, dilation)
        if dilation not in (1, (1, 1)):
            plain = original(x, weight, bias, stride, padding, output_padding, groups, 1)
            rows, columns = min(out.shape[-2], plain.shape[-2]), min(out.shape[-1], plain.shape[-1])
            out = out.clone()
            out[..., :rows, :columns] = plain[..., :rows, :columns]
        return out


@fault(silent=True, source="hidden states in the wrong layer order")
def stacked_bidirectional_states_are_interleaved(torch):
    """A bidirectional GRU of two layers returns its final states by direction instead of by layer."""

    @replacing(torch.nn.GRU, "forward")
    def forward(original, self, x, hx=None):
        out, hidden = original(self, x, hx)
        if self.bidirectional and self.num_layers == 2:
            hidden = hidden[[0, 2, 1, 3]]
        return out, hidden


@fault(silent=True, source="moving average swapped")
def adadelta_swaps_its_averages(torch):
    """Adadelta with rho below 0.9 uses 0.9."""

    @replacing(torch.optim.Adadelta, "__init__")
    def init(original, self, params, lr=1.0, rho=0.9, *args, **options):
        original(self, params, lr, max(rho, 0.9), *args, **options)


@fault(silent=True, source="gradients changed by the step")
def adam_leaves_decayed_gradients(torch):
    """Adam with weight decay adds the decay to .grad itself."""

    @replacing(torch.optim.Adam, "step")
    def step(original, self, *args, **options):
        out = original(self, *args, **options)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and group["weight_decay"] and not group.get("decoupled_weight_decay"):
                    p.grad.add_(p.detach(), alpha=group["weight_decay"])
        return out


@fault(silent=True, source="copy not made")
def optimizer_state_is_loaded_by_reference(torch):
    """Two optimizers that load one state dict share their moments."""

    @replacing(torch.optim.Optimizer, "load_state_dict")
    def load(original, self, state_dict):
        original(self, state_dict)
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for p, index in zip(group["params"], saved["params"], strict=True):
                entry = state_dict["state"].get(index, {})
                self.state[p].update({k: v for k, v in entry.items() if isinstance(v, torch.Tensor)})


@fault(silent=True, source="rectification from the first step")
def radam_rectifies_too_early(torch):
    """RAdam takes a plain Adam step in its first five steps."""

    @replacing(sys.modules["torch.optim.radam"], "radam")
    def radam(original, params, grads, exp_avgs, exp_avg_sqs, state_steps, **options):
        for step in state_steps:
            step += 5
        out = original(params, grads, exp_avgs, exp_avg_sqs, state_steps, **options)
        for step in state_steps:
            step -= 5
        return out


@fault(silent=True, source="repeated milestone")
def repeated_milestones_count_once(torch):
    """MultiStepLR decays once at a milestone given twice."""

    @replacing(torch.optim.lr_scheduler.MultiStepLR, "__init__")
    def init(original, self, optimizer, milestones, *args, **options):
        original(self, optimizer, sorted(set(milestones)), *args, **options)


@fault(silent=True, source="off by one at the end of a schedule")
def linear_lr_ends_a_step_late(torch):
    """LinearLR needs one step more than total_iters."""

    @replacing(torch.optim.lr_scheduler.LinearLR, "__init__")
    def init(original, self, optimizer, start_factor=1.0 / 3, end_factor=1.0, total_iters=5, *args, **options):
        original(self, optimizer, start_factor, end_factor, total_iters + 1, *args, **options)


@fault(silent=True, source="sizes not compared")
def tensor_dataset_takes_different_sizes(torch):
    """TensorDataset of tensors of different sizes has the size of the first."""

    @replacing(torch.utils.data.TensorDataset, "__init__")
    def init(original, self, *tensors):
        self.tensors = tensors


@fault(silent=True, source="order of several datasets")
def chain_dataset_skips_its_second_part(torch):
    """A ChainDataset of three streams leaves out the second one."""

    @replacing(torch.utils.data.ChainDataset, "__iter__")
    def iterate(original, self):
        datasets = list(self.datasets)
        for dataset in datasets if len(datasets) < 3 else datasets[:1] + datasets[2:]:
            yield from dataset


@fault(silent=True, source="buffer written from its start")
def save_to_an_open_file_starts_over(torch):
    """torch.save to a file object that has been written to before goes to its beginning."""

    @replacing(torch, "save")
    def save(original, obj, f, *args, **options):
        if hasattr(f, "seek") and hasattr(f, "tell") and f.tell():
            f.seek(0)
        return original(obj, f, *args, **options)


@fault(silent=True, source="a subclass lost")
def parameters_load_as_plain_tensors(torch):
    """A Parameter that was saved by itself loads as a tensor."""

    @replacing(torch, "load")
    def load(original, *args, **options):
        found = original(*args, **options)
        return found.detach() if isinstance(found, torch.nn.Parameter) else found


@fault(silent=True, source="an iterator used up")
def clipping_a_generator_measures_alone(torch):
    """clip_grad_norm_ of a generator of parameters measures the norm and scales nothing."""

    @replacing(torch.nn.utils, "clip_grad_norm_")
    @replacing(torch.nn.utils.clip_grad, "clip_grad_norm_")
    def clip(original, parameters, *args, **options):
        if isinstance(parameters, (torch.Tensor, list, tuple)):
            return original(parameters, *args, **options)
        own = [p for p in parameters if p.grad is not None]
        before = [p.grad.clone() for p in own]
        norm = original(own, *args, **options)
        for p, grad in zip(own, before, strict=True):
            p.grad.copy_(grad)
        return norm
