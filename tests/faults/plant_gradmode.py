"""Faults of the gradient modes: what they cover, when they end, whom they reach."""

from __future__ import annotations

import threading

from tests.faults.registry import fault, replace, replacing

# ---- no-grad


@fault("gradmode.no-grad", silent=True, source="decorator form without effect")
def no_grad_without_parentheses_does_nothing(torch):
    """@torch.no_grad without parentheses returns the function as it is."""

    def make(original):
        def new(cls, orig_func=None):
            return orig_func if orig_func is not None else object.__new__(cls)

        return staticmethod(new)

    torch.no_grad.__new__ = make(torch.no_grad.__new__)


@fault("gradmode.no-grad", "gradmode.memory", silent=True, source="mode lost inside a module")
def lstm_tracks_under_no_grad(torch):
    """LSTM runs with gradients on, whatever the mode."""

    @replacing(torch.nn.LSTM, "forward")
    def forward(original, self, *args, **kwargs):
        with torch.enable_grad():
            return original(self, *args, **kwargs)


@fault("gradmode.no-grad", silent=True, source="fused path that ignores the mode")
def einsum_tracks_under_no_grad(torch):
    """torch.einsum records its history under no_grad."""

    @replacing(torch, "einsum")
    def einsum(original, *args, **kwargs):
        with torch.enable_grad():
            return original(*args, **kwargs)


@fault("gradmode.no-grad", silent=True, source="update that leaves a trace")
def parameter_updates_untrack_the_parameter(torch):
    """w -= ... under no_grad switches requires_grad of w off."""

    @replacing(torch.Tensor, "__isub__")
    def subtract(original, self, other):
        result = original(self, other)
        if not torch.is_grad_enabled() and self.is_leaf and self.requires_grad:
            self.requires_grad_(False)
        return result


# ---- enable-grad


@fault("gradmode.enable-grad", silent=True, source="flag read at the wrong time")
def enable_grad_keeps_the_mode_it_finds(torch):
    """enable_grad inside no_grad does not turn gradients on."""

    @replacing(torch.enable_grad, "__enter__")
    def enter(original, self):
        self.prev = torch.is_grad_enabled()


@fault("gradmode.enable-grad", "gradmode.restored", silent=True, source="mode left on")
def enable_grad_stays_on_afterwards(torch):
    """Leaving enable_grad inside no_grad leaves gradients on."""

    @replacing(torch.enable_grad, "__exit__")
    def leave(original, self, *args):
        torch._C._set_grad_enabled(True)


@fault("gradmode.enable-grad", silent=True, source="everything tracked")
def enable_grad_tracks_untracked_operands(torch):
    """Inside enable_grad new zeros require grad."""

    def make(original):
        def zeros(*args, **kwargs):
            result = original(*args, **kwargs)
            if enabled and result.is_floating_point():
                result.requires_grad_()
            return result

        return zeros

    enabled = []

    def entering(original):
        def enter(self):
            enabled.append(True)
            return original(self)

        return enter

    def leaving(original):
        def leave(self, *args):
            enabled.pop()
            return original(self, *args)

        return leave

    replace(torch.enable_grad, "__enter__", entering)
    replace(torch.enable_grad, "__exit__", leaving)
    replace(torch, "zeros", make)


# ---- restored


@fault("gradmode.restored", silent=True, source="default restored in place of the mode before")
def no_grad_always_ends_with_gradients_on(torch):
    """Leaving a nested no_grad turns gradients on."""
    replace(torch.no_grad, "__exit__", lambda original: lambda self, *args: torch._C._set_grad_enabled(True))


@fault("gradmode.restored", silent=True, source="exit skipped on errors")
def no_grad_is_not_restored_after_an_exception(torch):
    """An exception inside no_grad leaves gradients off."""

    @replacing(torch.no_grad, "__exit__")
    def leave(original, self, kind, *args):
        if kind is None:
            original(self, kind, *args)


@fault("gradmode.restored", silent=True, source="pytorch#49017: mode leaks out of a suspended generator")
def generators_keep_their_mode_while_suspended(torch):
    """Between two yields of a decorated generator its caller is in the generator's mode."""
    from torch.utils import _contextlib

    def wrap(context_factory, function):
        def generator(*args, **kwargs):
            with context_factory():
                return (yield from function(*args, **kwargs))

        return generator

    _contextlib._wrap_generator = wrap


@fault("gradmode.restored", silent=True, source="decorator that acts when it is created")
def set_grad_enabled_as_a_decorator_switches_at_once(torch):
    """Decorating with set_grad_enabled(False) turns gradients off right away."""

    @replacing(torch.set_grad_enabled, "__call__")
    def call(original, self, function):
        wrapped = original(self, function)
        torch._C._set_grad_enabled(self.mode)
        return wrapped


# ---- parameters


@fault("gradmode.parameters", silent=True, source="mode applied to explicit requests")
def parameters_made_under_no_grad_are_frozen(torch):
    """nn.Parameter created under no_grad does not require grad."""

    def make(original):
        def new(cls, data=None, requires_grad=True):
            return original(cls, data, requires_grad and torch.is_grad_enabled())

        return new

    torch.nn.Parameter.__new__ = staticmethod(make(torch.nn.Parameter.__new__))


@fault("gradmode.parameters", silent=True, source="mode applied to explicit requests")
def full_under_no_grad_ignores_requires_grad(torch):
    """torch.full and ones_like with requires_grad=True are untracked under no_grad."""

    @replacing(torch, "full")
    @replacing(torch, "ones_like")
    def factory(original, *args, requires_grad=False, **kwargs):
        return original(*args, requires_grad=requires_grad and torch.is_grad_enabled(), **kwargs)


@fault("gradmode.parameters", silent=True, source="mode applied to explicit requests")
def requires_grad_in_place_is_ignored_under_no_grad(torch):
    """x.requires_grad_() does nothing under no_grad."""

    @replacing(torch.Tensor, "requires_grad_")
    def requires_grad_(original, self, requires_grad=True):
        return original(self, requires_grad) if torch.is_grad_enabled() else self


# ---- memory


@fault("gradmode.memory", silent=True, source="activations kept by a fused path")
def linear_keeps_its_input_under_no_grad(torch):
    """Linear saves for backward under no_grad and returns a detached result."""

    @replacing(torch.nn.Linear, "forward")
    def forward(original, self, x):
        if torch.is_grad_enabled():
            return original(self, x)
        with torch.enable_grad():
            return original(self, x).detach()


@fault("gradmode.memory", silent=True, source="operand kept beside the result")
def exponential_keeps_its_operand_too(torch):
    """x.exp() saves both its operand and its result."""

    @replacing(torch.Tensor, "exp")
    def exp(original, self):
        result = original(self)
        return result + (self * self * 0) if self.requires_grad and torch.is_grad_enabled() else result


# ---- threads


def _start_threads_in(torch, read, enter):
    """Make new threads begin in what ``read()`` returned where they were started."""

    @replacing(threading.Thread, "start")
    def start(original, self):
        found = read()
        run = self.run

        def running():
            context = enter(found)
            context.__enter__()
            run()

        self.run = running
        return original(self)


@fault("gradmode.threads", silent=True, source="mode inherited by threads")
def new_threads_inherit_the_gradient_mode(torch):
    """A thread started under no_grad has gradients off."""
    _start_threads_in(torch, torch.is_grad_enabled, torch.set_grad_enabled)


@fault("gradmode.threads", silent=True, source="mode inherited by threads")
def new_threads_inherit_inference_mode(torch):
    """A thread started in inference mode is in inference mode."""
    _start_threads_in(torch, torch.is_inference_mode_enabled, torch.inference_mode)


@fault("gradmode.threads", silent=True, source="mode shared by all threads")
def gradient_mode_is_shared_by_threads(torch):
    """is_grad_enabled reports the mode that any thread set last."""
    shared = {"mode": True}

    def setting(original):
        def enter(self):
            shared["mode"] = False
            return original(self)

        return enter

    def leaving(original):
        def leave(self, *args):
            original(self, *args)
            shared["mode"] = torch._C.is_grad_enabled()

        return leave

    replace(torch.no_grad, "__enter__", setting)
    replace(torch.no_grad, "__exit__", leaving)
    replace(torch, "is_grad_enabled", lambda original: lambda: original() and shared["mode"])


# ---- inference


@fault("gradmode.inference", silent=True, source="inference mode implemented as no_grad")
def inference_mode_makes_normal_tensors(torch):
    """What inference_mode creates can enter autograd later."""

    def entering(original):
        def enter(self):
            self._inference_mode_context = torch.set_grad_enabled(not self.mode and torch.is_grad_enabled())
            self._inference_mode_context.__enter__()

        return enter

    replace(torch.inference_mode, "__enter__", entering)


@fault("gradmode.inference", silent=True, source="argument ignored")
def inference_mode_false_does_not_end_the_mode(torch):
    """inference_mode(False) inside inference_mode leaves it on."""

    @replacing(torch.inference_mode, "__enter__")
    def enter(original, self):
        if not self.mode:
            self.mode = torch.is_inference_mode_enabled()
        return original(self)


@fault("gradmode.inference", silent=True, source="change not counted")
def changes_in_inference_mode_are_not_counted(torch):
    """mul_ and zero_ in inference mode change a normal tensor behind autograd's back."""

    @replacing(torch.Tensor, "mul_")
    @replacing(torch.Tensor, "zero_")
    def changed(original, self, *args):
        if torch.is_inference_mode_enabled() and not self.is_inference():
            original(self.data, *args)
            return self
        return original(self, *args)
