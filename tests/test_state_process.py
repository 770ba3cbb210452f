"""The global state outside of torch's own flags: the environment, the compiler, process groups."""

import os
import sys

import pytest
import torch
from packaging.version import Version

from pytest_torchcheck import state, state_process

# -- environment variables ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("TORCHINDUCTOR_CACHE_DIR", "/tmp/torchinductor_me"), ("TRITON_CACHE_DIR", "/tmp/torchinductor_me/triton/0")],
)
def test_variable_that_torch_sets_itself_is_not_named(name, value, monkeypatch):
    """The compiler sets some variables of its own accord; they are put back without a word."""
    monkeypatch.delenv(name, raising=False)
    found = state.snapshot()
    os.environ[name] = value
    assert state.restore(found) == []
    assert name not in os.environ


def test_variable_that_torch_could_have_set_is_named_when_it_did_not(monkeypatch, tmp_path):
    """A test that moves the compiler's cache to a folder of its own is told so."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    found = state.snapshot()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = "/mine"
    assert state.restore(found) == ["environment variable TORCHINDUCTOR_CACHE_DIR: not set -> '/mine'"]


def test_workspace_setting_is_forgiven_to_the_compiler_once(monkeypatch):
    """One module of the compiler sets CUBLAS_WORKSPACE_CONFIG when it is imported; later it was the test."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(state_process, "_forgiven", set())
    monkeypatch.setitem(sys.modules, state_process._SETS_WORKSPACE, sys)
    named = []
    for _ in range(2):
        found = state.snapshot()
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        named.append(state.restore(found))
    assert named == [[], ["environment variable CUBLAS_WORKSPACE_CONFIG: not set -> ':4096:8'"]]


def test_variables_of_others_are_left_alone(monkeypatch):
    """What torch and its libraries do not read is none of the guard's business."""
    monkeypatch.delenv("SOMEONE_ELSES_SETTING", raising=False)
    found = state.snapshot()
    monkeypatch.setenv("SOMEONE_ELSES_SETTING", "1")
    assert state.restore(found) == []
    assert os.environ["SOMEONE_ELSES_SETTING"] == "1"


# -- the compiler ------------------------------------------------------------------------------------------


@pytest.fixture
def dynamo():
    """Give torch._dynamo, imported, with nothing compiled."""
    import torch._dynamo

    torch._dynamo.reset()
    yield torch._dynamo
    torch._dynamo.reset()


# The recompile limit, which torch 2.7 renamed.
LIMIT = "recompile_limit" if Version(torch.__version__) >= Version("2.7") else "cache_size_limit"


def test_compiler_settings_are_named_and_put_back(dynamo):
    """The recompile limit and its like are read from torch's configuration modules, whichever are loaded."""
    found = state.snapshot()
    setattr(dynamo.config, LIMIT, 3)
    dynamo.config.verbose = not dynamo.config.verbose
    assert sorted(state.restore(found)) == [
        f"torch._dynamo.config.{LIMIT}: 8 -> 3",
        "torch._dynamo.config.verbose: False -> True",
    ]
    assert (getattr(dynamo.config, LIMIT), dynamo.config.verbose) == (8, False)
    assert state.restore(found) == []


def test_compiler_setting_that_was_found_set_is_put_back(dynamo):
    """A setting that a conftest had changed goes back to the conftest's value."""
    with dynamo.config.patch({LIMIT: 5}):
        found = state.snapshot()
        setattr(dynamo.config, LIMIT, 3)
        assert state.restore(found) == [f"torch._dynamo.config.{LIMIT}: 5 -> 3"]
        assert getattr(dynamo.config, LIMIT) == 5
    assert getattr(dynamo.config, LIMIT) == 8


def test_setting_put_back_reaches_the_compiler(dynamo):
    """The configuration modules cache what they compute from their values; putting one back renews that."""
    original = dynamo.config.get_hash()
    found = state.snapshot()
    dynamo.config.assume_static_by_default = False
    assert dynamo.config.get_hash() != original
    state.restore(found)
    assert dynamo.config.get_hash() == original


def test_setting_that_was_only_read_is_no_change(dynamo):
    """Reading a setting that holds a list makes torch store a copy of the default: nothing to name."""
    import torch._inductor.config

    found = state.snapshot()
    assert torch._inductor.config.post_grad_fusion_options == {}
    assert state.restore(found) == []


def test_stance_is_named_and_put_back(dynamo):
    """torch.compiler.set_stance called as a function holds for the rest of the process."""
    found = state.snapshot()
    torch.compiler.set_stance("force_eager")
    assert state.restore(found) == ["torch.compiler.set_stance: default -> 'force_eager'"]
    assert state.restore(found) == []


class Counter:
    """A compiler back end that counts the frames it is given."""

    def __init__(self):
        self.frames = 0

    def __call__(self, graph, inputs):
        self.frames += 1
        return graph.forward


def test_compiled_code_is_forgotten_and_not_named(dynamo):
    """What a test compiled is compiled again by the next: no recompile limit is reached by the tests before."""
    counter = Counter()
    compiled = torch.compile(lambda x: x + 1, backend=counter)
    for _ in range(2):
        found = state.snapshot()
        compiled(torch.ones(2))
        compiled(torch.ones(2))
        assert state.restore(found) == []
    assert counter.frames == 2


def test_code_that_was_found_compiled_stays_so(dynamo):
    """What was compiled before, by a fixture of wider scope for example, is kept; only what came after is forgotten."""
    kept, dropped = Counter(), Counter()
    shared = torch.compile(lambda x: x + 1, backend=kept)
    own = torch.compile(lambda x: x * 2, backend=dropped)
    shared(torch.ones(2))
    for _ in range(3):
        found = state.snapshot()
        shared(torch.ones(2))
        own(torch.ones(2))
        assert state.restore(found) == []
    assert (kept.frames, dropped.frames) == (1, 3)


# -- process groups ----------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path):
    """Give the arguments of a process group of this process alone."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("needs a torch built with torch.distributed and gloo")
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    yield {"backend": "gloo", "store": store, "rank": 0, "world_size": 1}
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_process_group_left_open_is_named_and_closed(world):
    """A test that initialises torch.distributed and does not close it leaves later tests unable to do so."""
    found = state.snapshot()
    torch.distributed.init_process_group(**world)
    torch.distributed.new_group([0])
    first, second = torch.distributed.distributed_c10d._world.pg_names.values()
    assert state.restore(found) == [
        f"process group {first!r}: not there -> left open",
        f"process group {second!r}: not there -> left open",
    ]
    assert not torch.distributed.is_initialized()


def test_process_group_that_was_found_open_stays_open(world):
    """Only the groups that the test opened are closed."""
    torch.distributed.init_process_group(**world)
    found = state.snapshot()
    torch.distributed.new_group([0])
    name = list(torch.distributed.distributed_c10d._world.pg_names.values())[-1]
    assert state.restore(found) == [f"process group {name!r}: not there -> left open"]
    assert torch.distributed.is_initialized()
    assert state.restore(found) == []


def test_process_group_that_was_closed_is_named(world):
    """A group that was found and closed cannot be opened again: the other processes would have to take part."""
    torch.distributed.init_process_group(**world)
    name = next(iter(torch.distributed.distributed_c10d._world.pg_names.values()))
    found = state.snapshot()
    torch.distributed.destroy_process_group()
    assert state.restore(found) == [f"process group {name!r}: open -> closed (cannot be put back)"]
