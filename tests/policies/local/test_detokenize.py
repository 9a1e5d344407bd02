"""A reply told while it is drawn: the same sample, and pieces that join to its text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from models.test_chat import byte_chat, demo_chat
from policies.local.test_policy import GREEDY, PROMPTS, forwards, with_many_ends
from rethink.models.chat import PLAIN_TEMPLATE, Chat
from rethink.models.language_model import LanguageModel
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.policies.local.detokenize import Detokenizer
from rethink.types import Sampling


def chat_of(words: list[str], decoder: Any = None, clean_up: bool = False) -> Chat:
    """A tokenizer of whole words; the first one ends a reply."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if decoder is not None:
        core.decoder = decoder
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=words[0],
        clean_up_tokenization_spaces=clean_up,
        extra_special_tokens=words[1:2],
    )
    return Chat(fast, frozenset({0}), PLAIN_TEMPLATE)


# Words are joined by blanks, which the library takes out again in front of the signs.
SIGNS = ["'", ",", ".", "!", "n't", "'m", "'ve", "'t", "'v"]
TIDY = chat_of(["</s>", "<s>", "I", "we", "do", "a", "n", "re", *SIGNS], clean_up=True)
# As Llama's first tokenizers do: a word brings its blank, the first one's is cut, and bytes are tokens of their own.
FALLBACK = chat_of(
    ["</s>", "<s>", "▁a", "▁", "b", "<0xE2>", "<0x82>", "<0xAC>", "<0xFF>"],
    decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
)
END = (["<s>", "b"], ["<s>", "<0xFF>", "b"])
CHATS = {"bytes": byte_chat(), "demo": demo_chat(), "tidy": TIDY, "fallback": FALLBACK}


def heard(chat: Chat, ids: list[int]) -> list[str]:
    """The pieces, id by id, as the sampler would tell them."""
    detokenizer = Detokenizer(chat)
    pieces = [detokenizer.add(ids[: t + 1]) for t in range(len(ids))]
    pieces.append(detokenizer.end(ids))
    return [piece for piece in pieces if piece]


def of_text(text: str) -> list[int]:
    """Ids of single bytes."""
    return list(byte_chat().tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.7, max_tokens=23), None])
def test_the_sample_is_that_of_sample(any_model: LanguageModel, sampling: Sampling | None) -> None:
    """Guards against a second way to draw, and pieces that are not the text."""
    policy = LocalPolicy(with_many_ends(any_model), Sampling(max_tokens=13))
    for shown in PROMPTS:
        told: list[str] = []
        sample = policy.stream(shown, sampling, told.append)
        assert sample == policy.sample([shown], 1, sampling)[0][0]
        assert "".join(told) == sample.text
        assert "" not in told


def test_pieces_come_while_the_reply_is_drawn(qwen: LanguageModel) -> None:
    """Guards against pieces that are all told at the end. Words are tokens here: after forward pass n there are n words at
    most, of which the last is told as soon as it is there."""
    when: list[int] = []
    with forwards(qwen) as seen:
        sample = LocalPolicy(qwen, GREEDY).stream(PROMPTS[0], None, lambda piece: when.append(len(seen)))
    assert sample is not None
    special = set(qwen.chat.tokenizer.all_special_ids)
    assert when == [n for n, token in enumerate(sample.ids, start=1) if token not in special]
    assert len(when) > 11


def test_an_overlong_prompt_has_no_reply(qwen: LanguageModel) -> None:
    """Guards against a crash where `sample` gives an empty group. The first prompt has 7 tokens."""
    told: list[str] = []
    policy = LocalPolicy(qwen, GREEDY, max_prompt_tokens=6)
    assert policy.stream(PROMPTS[0], None, told.append) is None
    assert (told, policy.n_overlong) == ([], 1)


def test_kept_prefixes_serve_streams(qwen: LanguageModel) -> None:
    """Guards against a stream that does not use them, and a listener that gave up and left a mess behind."""
    policy = LocalPolicy(with_many_ends(qwen), GREEDY)
    expected = policy.sample(PROMPTS[:1], 1)[0][0]

    def give_up(piece: str) -> None:
        raise ConnectionError

    with policy.reuse_prefixes():
        with pytest.raises(ConnectionError):
            policy.stream(PROMPTS[0], None, give_up)
        told: list[str] = []
        assert policy.stream(PROMPTS[0], None, told.append) == expected
        assert "".join(told) == expected.text
        assert policy.n_reused_tokens == 6


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("né à", ["n", "é", " à"]),
        ("a€b", ["a", "€", "b"]),
        ("a  \n b ", ["a", "  \n b", " "]),
        ("don't n", ["d", "o", "n", "'", "t", " n"]),
        ("", []),
    ],
)
def test_characters_are_told_whole(text: str, pieces: list[str]) -> None:
    """Guards against half a character on the screen. Each id is a byte: é has two, € has three; blanks wait for what comes
    behind them, and so does an n that may be that of n't."""
    assert heard(byte_chat(), [*of_text(text), byte_chat().end_id]) == pieces


def test_half_a_character_at_the_end_is_told_as_such() -> None:
    """Guards against text that is held back for ever: a reply that is cut within a character ends in U+FFFD."""
    assert heard(byte_chat(), of_text("a€")[:-1]) == ["a", "\ufffd"]


def test_blanks_that_go_away() -> None:
    """Guards against a blank that was told and that the next token takes back."""
    ids = TIDY.tokenizer.convert_tokens_to_ids(["I", "'m", ",", "we", "do", "n't", "a", "!"])
    assert TIDY.decode(ids) == "I'm, we don't a!"
    assert heard(TIDY, ids) == ["I", "'m", ",", " we", " do", "n't", " a", "!"]


def test_bytes_that_do_not_make_a_character_after_all() -> None:
    """Guards against a character that was told and is gone: where bytes are tokens of their own, one that is no text turns
    all bytes around it into U+FFFD. They wait for the next word."""
    fit, unfit = (FALLBACK.tokenizer.convert_tokens_to_ids(["▁a", "<0xE2>", "<0x82>", "<0xAC>", *ids]) for ids in END)
    assert heard(FALLBACK, fit) == ["a", "€b"]
    assert heard(FALLBACK, unfit) == ["a", "\ufffd" * 4 + "b"]


@pytest.mark.parametrize("name", CHATS)
@given(data=st.data())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_pieces_join_to_the_text(name: str, data: st.DataObject) -> None:
    """Guards against text that is told twice or never, with tokens that strip blanks, bytes that are no text, and special
    tokens."""
    chat = CHATS[name]
    ids = data.draw(st.lists(st.integers(1, len(chat.tokenizer) - 1), max_size=11))
    stop = data.draw(st.booleans())
    pieces = heard(chat, [*ids, chat.end_id] if stop else ids)
    assert "".join(pieces) == chat.decode(ids)
    assert "" not in pieces


@pytest.mark.parametrize(
    ("reply", "cap", "pieces"),
    [
        ("2 + 3", 23, ["2", " +", " 3"]),
        ("  2\n+ ", 23, ["  2", "\n+", " "]),
        ("2 + 3", 2, ["2", " +"]),
        (" ", 23, [" "]),
        ("", 23, []),
    ],
)
def test_the_fake_policy_tells_words(reply: str, cap: int, pieces: list[str]) -> None:
    """Guards against blanks that are lost, and words behind the cap."""
    policy = FakePolicy(lambda prompt, index, version: reply)
    told: list[str] = []
    sample = policy.stream(PROMPTS[0], Sampling(max_tokens=cap), told.append)
    assert told == pieces
    assert sample == policy.sample(PROMPTS[:1], 1, Sampling(max_tokens=cap))[0][0]
    assert policy.shown == [PROMPTS[0]] * 2
