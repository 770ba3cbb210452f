"""The catalogue and the known failures: what is valid, and the one sentence for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_torchcheck import catalog
from pytest_torchcheck.catalog import Behavior, CatalogError, KnownFailure

ROOT = Path(__file__).resolve().parents[1]

ROW = {
    "id": "tensor.ranks",
    "kind": "device",
    "statement": "A scalar has no dimension.",
    "reference": "https://docs.pytorch.org/docs/stable/tensors.html",
    "question": "2",
}
ENTRY = {
    "id": "tensor.ranks",
    "device": "cuda",
    "torch": ">=2.9",
    "link": "https://github.com/pytorch/pytorch/issues/1",
    "reason": "item() lies",
}


def table(name: str, row: dict[str, object]) -> str:
    lines = [f"[[{name}]]"]
    for key, value in row.items():
        text = f'"{value}"' if isinstance(value, str) else str(value).replace("'", '"')
        lines.append(f"{key} = {text}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def write(tmp_path):
    """Write a TOML file of one or more tables and return its path."""

    def write(name, *rows, text=""):
        path = tmp_path / f"{name}.toml"
        path.write_text(text or "\n".join(table(name, row) for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def behaviors(write):
    """A catalogue of one row on devices and one on the host."""
    return catalog.load_behaviors(write("behavior", ROW, ROW | {"id": "data.batches", "kind": "host"}))


def test_row_is_read_with_every_field(write):
    """A row arrives as written, with its area and whether it is checked per device."""
    extra = {"torch": ">=2.9", "torch_reason": "earlier releases lack it", "needs": ["accelerator"]}
    (row,) = catalog.load_behaviors(write("behavior", ROW | extra)).values()
    assert row == Behavior(**ROW | extra | {"needs": ("accelerator",)})
    assert (row.area, row.on_devices) == ("tensor", True)


def test_rows_keep_their_order(behaviors):
    """The catalogue's order is the order of the file."""
    assert list(behaviors) == ["tensor.ranks", "data.batches"]
    assert not behaviors["data.batches"].on_devices


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": "gpu"}, "kind is 'gpu'; write 'device' or 'host'"),
        ({"id": "ranks"}, "an id is an area, a dot and a word, for example tensor.ranks; rename it"),
        ({"statement": " "}, "'statement' is empty; fill it in"),
        ({"statement": 3}, "'statement' holds 3; write text in quotes"),
        ({"reference": "tensors.html"}, "reference 'tensors.html' is no https:// address; give the page's"),
        ({"nedds": ["cuda"]}, "'nedds' is not a key of it; the keys are id, kind, needs, question, reference, "),
        ({"needs": "cuda"}, "'needs' holds 'cuda'; write a list of names"),
        ({"needs": [1]}, "'needs' holds [1]; write text in quotes"),
        ({"torch": ">=2.9"}, "'torch' and 'torch_reason' come together; give both or neither"),
        (
            {"torch": "2.9 and up", "torch_reason": "x"},
            "torch = '2.9 and up' is no version range; write one such as '>=2.9,<3'",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_row_is_told_in_one_sentence(write, change, sentence):
    """A mistake in a row names the file, the row and the remedy."""
    path = write("behavior", ROW | change)
    with pytest.raises(CatalogError) as caught:
        catalog.load_behaviors(path)
    text = str(caught.value)
    assert text.startswith(f"{path}, behavior {(ROW | change)['id']!r}: ")
    assert sentence in text
    assert "\n" not in text


def test_missing_field_is_named(write):
    """A row without a field is refused, also when the missing field is the id."""
    for key in ROW:
        row = {name: value for name, value in ROW.items() if name != key}
        with pytest.raises(CatalogError, match=f"'{key}' is missing; add it"):
            catalog.load_behaviors(write("behavior", row))


def test_duplicate_row_is_refused(write):
    """An id belongs to one row."""
    with pytest.raises(CatalogError, match="behavior 'tensor.ranks': the id is there twice; remove one of the two"):
        catalog.load_behaviors(write("behavior", ROW, ROW))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[behavior]\n", r"is not valid TOML: .*; correct that place"),
        ("[[behaviour]]\nid = 'x'\n", r"unknown table 'behaviour'; only \[\[behavior\]\] tables belong there"),
        ("behavior = 3\n", r"'behavior' is not an array of tables; write \[\[behavior\]\] above each entry"),
        ("# nothing\n", r"lists no behavior; add a \[\[behavior\]\] table per row"),
    ],
    ids=["syntax", "table", "shape", "empty"],
)
def test_bad_file_is_told_in_one_sentence(write, text, sentence):
    """A file that is no catalogue is refused as a whole."""
    with pytest.raises(CatalogError, match=sentence):
        catalog.load_behaviors(write("behavior", text=text))


def test_absent_and_undecodable_files_are_told(tmp_path):
    """A file that cannot be read is named with the cause."""
    with pytest.raises(CatalogError, match=r"none.toml cannot be read: No such file or directory; check the path"):
        catalog.load_behaviors(tmp_path / "none.toml")
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# caf\xe9\n")
    with pytest.raises(CatalogError, match="is not valid TOML"):
        catalog.load_behaviors(path)


def test_known_failures_are_read(write, behaviors):
    """Entries arrive as written, and an empty file lists none."""
    assert catalog.load_known_failures(write("known", ENTRY), behaviors) == (KnownFailure(**ENTRY),)
    assert catalog.load_known_failures(write("known", text="# none\n"), behaviors) == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"id": "tensor.rank"}, "no behavior has this id; did you mean 'tensor.ranks'?"),
        ({"id": "zzz"}, "no behavior has this id; behaviors.toml of the conformance suite lists the ids"),
        ({"id": "data.batches"}, "the behavior is checked on the host only; write device = '*'"),
        ({"link": "pytorch#1"}, "link 'pytorch#1' is no https:// address; link the public report of the bug"),
        ({"torch": "new"}, "torch = 'new' is no version range"),
        ({"reason": ""}, "'reason' is empty; fill it in"),
        ({"strict": "no"}, "'strict' is not a key of it; the keys are device, id, link, reason, tests, torch"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_bad_entry_is_told_in_one_sentence(write, behaviors, change, sentence):
    """A mistake in an entry names the file, the entry and the remedy."""
    path = write("known", ENTRY | change)
    with pytest.raises(CatalogError) as caught:
        catalog.load_known_failures(path, behaviors)
    assert str(caught.value).startswith(f"{path}, entry 1 (")
    assert sentence in str(caught.value)


def test_duplicate_entry_is_refused(write, behaviors):
    """The same entry twice is a mistake."""
    with pytest.raises(CatalogError, match=r"entry 2 \(tensor.ranks\): the entry is there twice; remove one"):
        catalog.load_known_failures(write("known", ENTRY, ENTRY), behaviors)


@pytest.mark.parametrize(
    ("entry_device", "device", "covered"),
    [
        ("cuda", "cuda:1", True),
        ("cuda", "cuda", True),
        ("cuda:1", "cuda:1", True),
        ("cuda:1", "cuda:0", False),
        ("cuda", "cpu", False),
        ("cuda", None, False),
        ("*", "cpu", True),
        ("*", None, True),
    ],
)
def test_entry_covers_its_device(entry_device, device, covered):
    """An entry is for a device, for all of a type, or for everything."""
    entry = KnownFailure(**ENTRY | {"device": entry_device})
    assert entry.covers("tensor.ranks", device) is covered
    assert not entry.covers("tensor.rand", device)
    assert str(entry) == f"tensor.ranks on {entry_device}"


def test_entry_may_be_for_some_tests_only():
    """An entry with a pattern covers the test functions of these names, whatever their parameters."""
    entry = KnownFailure(**ENTRY | {"tests": "test_item_*"})
    assert str(entry) == "tensor.ranks on cuda in test_item_*"
    assert entry.covers("tensor.ranks", "cuda")
    assert entry.covers("tensor.ranks", "cuda", "conformance/test_tensor.py::test_item_raises[cuda-x]")
    assert not entry.covers("tensor.ranks", "cuda", "conformance/test_tensor.py::test_ranks[test_item_]")


@pytest.mark.parametrize(
    ("specifier", "version", "inside"),
    [
        (">=2.9", "2.9.0+cpu", True),
        (">=2.9", "2.8.1", False),
        (">=2.15", "2.15.0.dev20260101+cu130", True),
        ("<2.9", "2.9.0rc2", False),
        ("", "2.6.0", True),
    ],
)
def test_range_counts_a_nightly_as_its_release(specifier, version, inside):
    """Local, development and candidate parts of a version do not matter."""
    assert catalog.in_range(version, specifier) is inside
    assert KnownFailure(**ENTRY | {"torch": specifier}).applies_to(version) is inside


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([], {"tensor.ranks", "tensor.rand", "data.batches"}),
        (["tensor"], {"tensor.ranks", "tensor.rand"}),
        (["tensor.rand", "data"], {"tensor.rand", "data.batches"}),
        (["*.ra*"], {"tensor.ranks", "tensor.rand"}),
    ],
    ids=["all", "area", "id-and-area", "pattern"],
)
def test_names_select_rows(names, chosen):
    """Ids, areas and patterns select rows; no name selects all."""
    ids = ("tensor.ranks", "tensor.rand", "data.batches")
    rows = {name: Behavior(**ROW | {"id": name}) for name in ids}
    assert catalog.select(rows, names) == chosen


def test_unknown_name_is_refused_with_the_nearest(behaviors):
    """A misspelt name offers what was meant."""
    with pytest.raises(CatalogError, match=r"no behavior is named 'tensr'; did you mean 'tensor'"):
        catalog.select(behaviors, ["data", "tensr"])


def test_the_suite_has_a_valid_catalogue_and_known_failures():
    """The shipped files are valid; every row that needs something says so in the vocabulary of --torchcheck-expect."""
    from pytest_torchcheck import capabilities

    rows = catalog.load_behaviors(ROOT / "conformance" / "behaviors.toml")
    assert len(rows) >= 183
    for row in rows.values():
        for need in row.needs:
            assert capabilities.parse(need).name
    catalog.load_known_failures(ROOT / "conformance" / "known-failures.toml", rows)
