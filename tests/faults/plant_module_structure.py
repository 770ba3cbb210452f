"""Faults of modules as containers: what is registered, called, printed and hooked."""

from __future__ import annotations

import functools

from tests.faults.registry import fault, replace, replacing


@fault("module.registration", silent=True, source="duplicates of shared tensors listed")
def shared_parameters_listed_twice(torch):
    """named_parameters and named_buffers list a shared tensor under every name."""

    @replacing(torch.nn.Module, "_named_members")
    def named_members(original, self, get_members, prefix="", recurse=True, remove_duplicate=True):
        return original(self, get_members, prefix, recurse, remove_duplicate=False)


@fault("module.registration", silent=True, source="assignment before super().__init__() accepted")
def early_assignment_accepted(torch):
    """Assigning a parameter before Module.__init__ ran makes a plain attribute."""

    @replacing(torch.nn.Module, "__setattr__")
    def setattr_(original, self, name, value):
        if "_parameters" not in self.__dict__ and isinstance(value, torch.nn.Parameter):
            object.__setattr__(self, name, value)
        else:
            original(self, name, value)


@fault("module.registration", silent=True, source="stale entry after reassignment")
def reassigned_module_stays_registered(torch):
    """A module assigned over another one of the same name is not registered."""

    @replacing(torch.nn.Module, "__setattr__")
    def setattr_(original, self, name, value):
        if isinstance(value, torch.nn.Module) and self.__dict__.get("_modules", {}).get(name) is not None:
            return
        original(self, name, value)


@fault("module.registration", silent=True, source="buffer persistence decides listing")
def passing_buffers_not_listed(torch):
    """named_buffers leaves out buffers that are not persistent."""

    @replacing(torch.nn.Module, "named_buffers")
    def named_buffers(original, self, *args, **kwargs):
        hidden = {id(m._buffers[name]) for m in self.modules() for name in m._non_persistent_buffers_set}
        return ((name, b) for name, b in original(self, *args, **kwargs) if id(b) not in hidden)


@fault("module.forward", silent=True, source="one-element containers unpacked")
def single_outputs_unpacked(torch):
    """A call whose forward returns a list of one tensor returns that tensor."""

    @replacing(torch.nn.Module, "__call__")
    def call(original, self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        return result[0] if isinstance(result, list) and len(result) == 1 else result


@fault("module.forward", silent=True, source="keyword arguments lost in the call")
def keywords_beside_positionals_lost(torch):
    """Keyword arguments given after positional ones do not reach forward, unless forward is torch's own."""

    @replacing(torch.nn.Module, "__call__")
    def call(original, self, *args, **kwargs):
        own = type(self).__module__.startswith("torch.")
        return original(self, *args, **(kwargs if own or not args else {}))


@fault("module.forward", silent=True, source="call resolves forward on the class")
def forward_of_the_instance_ignored(torch):
    """A forward set on an instance is not used."""

    @replacing(torch.nn.Module, "__call__")
    def call(original, self, *args, **kwargs):
        self.__dict__.pop("forward", None)
        return original(self, *args, **kwargs)


@fault("module.repr", silent=True, source="children beyond a limit left out")
def third_child_not_printed(torch):
    """repr leaves out the last of three or more children."""

    @replacing(torch.nn.Module, "__repr__")
    def repr_(original, self):
        text = original(self)
        lines = text.split("\n")
        count = len(self._modules)
        if count < 3 or len(lines) != count + 2:
            return text
        return "\n".join(lines[:-2] + lines[-1:])


@fault("module.repr", silent=True, source="setting missing from extra_repr")
def padding_mode_not_printed(torch):
    """Convolutions print no padding mode."""

    def make(original):
        return lambda self: original(self).split(", padding_mode")[0]

    replace(torch.nn.modules.conv._ConvNd, "extra_repr", make)


@fault("module.repr", silent=True, source="cached text not refreshed")
def repr_remembered(torch):
    """repr returns the text of the first call for the same object."""

    @replacing(torch.nn.Module, "__repr__")
    def repr_(original, self):
        return self.__dict__.setdefault("_text", original(self))


@fault("module.containers", silent=True, source="names sorted as text")
def module_list_in_order_of_text(torch):
    """ModuleList iterates over its names in the order of text: item 10 comes after item 1."""

    def iterate(self):
        return iter([self._modules[name] for name in sorted(self._modules)])

    torch.nn.ModuleList.__iter__ = iterate


@fault("module.containers", silent=True, source="insert appends")
def sequential_inserts_at_the_end(torch):
    """Sequential.insert puts the module last."""

    def insert(self, index, module):
        return self.append(module)

    torch.nn.Sequential.insert = insert


@fault("module.containers", silent=True, source="tensor not wrapped in a Parameter")
def parameter_list_appends_plain_tensors(torch):
    """ParameterList keeps an appended tensor as a plain attribute that no optimizer sees."""

    @replacing(torch.nn.ParameterList, "append")
    def append(original, self, value):
        if isinstance(value, torch.nn.Parameter):
            return original(self, value)
        index = len(self)
        self._size += 1
        object.__setattr__(self, str(index), value)
        return self


@fault("module.containers", silent=True, source="slice renumbers the original")
def sequential_skips_the_last_of_a_slice(torch):
    """A slice of a Sequential of more than two modules loses its last module."""

    @replacing(torch.nn.Sequential, "__getitem__")
    def getitem(original, self, index):
        found = original(self, index)
        if isinstance(index, slice) and len(found) >= 2:
            del found._modules[list(found._modules)[-1]]
        return found


@fault("module.hooks", silent=True, source="removal loses the wrong entry")
def first_hook_cannot_be_removed(torch):
    """remove() does nothing for the hook registered first while others are there."""

    @replacing(torch.utils.hooks.RemovableHandle, "remove")
    def remove(original, self):
        hooks = self.hooks_dict_ref()
        if hooks is not None and len(hooks) > 1 and next(iter(hooks)) == self.id:
            return
        original(self)


@fault("module.hooks", silent=True, source="prepend ignored")
def prepended_hooks_run_last(torch):
    """prepend=True is ignored for forward hooks."""

    @replacing(torch.nn.Module, "register_forward_hook")
    def register(original, self, hook, *, prepend=False, **kwargs):
        return original(self, hook, prepend=False, **kwargs)


@fault("module.hooks", silent=True, source="bare return value of a pre-hook dropped")
def pre_hook_tensor_ignored(torch):
    """A pre-hook that returns a tensor instead of a tuple changes nothing."""

    @replacing(torch.nn.Module, "register_forward_pre_hook")
    def register(original, self, hook, **kwargs):
        @functools.wraps(hook)
        def wrapped(*args):
            result = hook(*args)
            return None if isinstance(result, torch.Tensor) else result

        return original(self, wrapped, **kwargs)


@fault("module.hooks", silent=True, source="fast path of eval skips hooks")
def no_hooks_in_eval(torch):
    """Forward hooks do not run when the module is in eval mode."""

    @replacing(torch.nn.Module, "register_forward_hook")
    def register(original, self, hook, **kwargs):
        def wrapped(module, *args):
            return hook(module, *args) if module.training else None

        return original(self, wrapped, **kwargs)


@fault("module.containers", silent=True, source="class of bug: a copy where a reference is promised")
def slices_of_a_sequential_are_copies(torch):
    """A slice of a Sequential holds copies of its modules."""
    import copy

    @replacing(torch.nn.Sequential, "__getitem__")
    def item(original, self, index):
        found = original(self, index)
        return copy.deepcopy(found) if isinstance(index, slice) else found
