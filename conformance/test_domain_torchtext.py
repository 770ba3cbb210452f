"""torchtext, which is no longer developed: absent is normal, installed it must work."""

from __future__ import annotations

import pytest

from .support.domain import domain_library

LINES = [["the", "cat", "saw", "the", "dog"], ["the", "dog", "ran"], ["a", "cat"]]


@pytest.fixture
def build():
    """The function that builds a vocabulary."""
    return domain_library("torchtext", "vocab").vocab.build_vocab_from_iterator


@pytest.mark.behavior("domain.torchtext")
def test_vocabulary_orders_words_by_frequency(build):
    """Specials come first, then words by falling frequency, equally frequent ones in alphabetical order."""
    vocabulary = build(LINES, specials=["<unk>", "<pad>"])
    expected = ["<unk>", "<pad>", "the", "cat", "dog", "a", "ran", "saw"]
    assert vocabulary.get_itos() == expected
    assert vocabulary.lookup_indices(expected) == list(range(8))
    assert (len(vocabulary), "dog" in vocabulary, "cow" in vocabulary) == (8, True, False)


@pytest.mark.behavior("domain.torchtext")
def test_unknown_words_get_the_default_index(build):
    """An unknown word raises until a default index is set, and then has that index."""
    vocabulary = build(LINES, specials=["<unk>"])
    with pytest.raises(RuntimeError):
        vocabulary["cow"]
    vocabulary.set_default_index(0)
    assert vocabulary(["cow", "the"]) == [0, 1]


@pytest.mark.behavior("domain.torchtext")
def test_rare_words_are_left_out(build):
    """min_freq leaves out rarer words, max_tokens all but the most frequent."""
    assert build(LINES, min_freq=2).get_itos() == ["the", "cat", "dog"]
    assert build(LINES, max_tokens=2).get_itos() == ["the", "cat"]
