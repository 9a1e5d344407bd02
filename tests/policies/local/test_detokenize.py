"""Streaming and incremental detokenization: the same sample, and pieces that join to its text, in linear time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rethink.models.chat import PLAIN_TEMPLATE, Chat
from rethink.models.language_model import LanguageModel
from rethink.policies.local import LocalPolicy
from rethink.policies.local.detokenize import Detokenizer
from rethink.serving.text_stream import StopStrings, cut_at_stop
from rethink.types import Sampling
from support.chats import byte_chat, demo_chat
from support.local_sampling import GREEDY, PROMPTS, record_forward_passes, with_many_stop_ids


def chat_of(words: list[str], decoder: Any = None, clean_up: bool = False, n_special: int = 2) -> Chat:
    """A tokenizer of whole words; the first one ends a reply, and so many are special."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if decoder is not None:
        core.decoder = decoder
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=words[0],
        clean_up_tokenization_spaces=clean_up,
        extra_special_tokens=words[1:n_special],
    )
    return Chat(fast, frozenset({0}), PLAIN_TEMPLATE)


# Words are joined by blanks, which the library takes out again in front of the signs.
SIGNS = ["'", ",", ".", "!", "n't", "'m", "'ve", "'t", "'v"]
TIDY = chat_of(["</s>", "<s>", "I", "we", "do", "a", "n", "re", *SIGNS], clean_up=True)
# Like Llama's first tokenizers: words include their space, the first space is removed, and bytes are tokens.
FALLBACK = chat_of(
    ["</s>", "<s>", "▁a", "▁", "b", "<0xE2>", "<0x82>", "<0xAC>", "<0xFF>"],
    decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
)
END = (["<s>", "b"], ["<s>", "<0xFF>", "b"])
# Like Qwen's and GPT's: parts of characters are tokens, and marks of thinking are special tokens that stay in the text.
PARTS = [pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(sign)[0][0] for sign in ("€", "😀")]
SPACED = ["Ġ", "Ċ", "ĠĠĠĠ", "Ġa", "b", "Ġn", "'t", ".", "Ġ€"]
BYTES = [PARTS[0][:2], PARTS[0][2:], PARTS[1][:1], PARTS[1][1:3], PARTS[1][3:], "Ã"]
BYTE_LEVEL = chat_of(["</s>", "<s>", "<think>", "</think>", *SPACED, *BYTES], decoders.ByteLevel(), n_special=4)
# Like sentencepiece's in newer files, and BERT's.
METASPACE = chat_of(
    ["</s>", "<s>", "<think>", "</think>", "▁", "▁▁▁", "▁a", "b", "\n", ".", "▁'", "é"],
    decoders.Metaspace(),
    n_special=4,
)
WORD_PIECE = chat_of(
    ["[SEP]", "[CLS]", "play", "##ing", "##s", "do", "n't", "'", "s", "t", ",", ".", "!", "re"], decoders.WordPiece()
)
CHATS = {
    **{"bytes": byte_chat(), "demo": demo_chat(), "tidy": TIDY, "fallback": FALLBACK},
    **{"byte level": BYTE_LEVEL, "metaspace": METASPACE, "word piece": WORD_PIECE},
}


def pieces_of(chat: Chat, ids: list[int]) -> list[str]:
    """Return the pieces that the sampler passes on, id by id."""
    detokenizer = Detokenizer(chat)
    pieces = [detokenizer.add(ids[: t + 1]) for t in range(len(ids))]
    pieces.append(detokenizer.end(ids))
    return [piece for piece in pieces if piece]


@pytest.mark.parametrize("sampling", [Sampling(0.7, max_tokens=23), None])
def test_streamed_sample_equals_sample(any_model: LanguageModel, sampling: Sampling | None) -> None:
    """Guards against another way to sample, and pieces that do not join to the text."""
    policy = LocalPolicy(with_many_stop_ids(any_model), Sampling(max_tokens=13))
    for shown in PROMPTS:
        pieces: list[str] = []
        sample = policy.stream(shown, sampling, pieces.append)
        assert sample == policy.sample([shown], 1, sampling)[0][0]
        assert "".join(pieces) == sample.text
        assert "" not in pieces


def test_streams_begin_with_what_the_template_opened(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a stream without the mark that the sample's text begins with."""
    monkeypatch.setattr(Chat, "reply_prefix", lambda chat, ids: "<think>\n")
    policy = LocalPolicy(qwen, GREEDY)
    pieces: list[str] = []
    sample = policy.stream(PROMPTS[0], None, pieces.append)
    assert sample is not None
    assert "".join(pieces) == sample.text
    assert pieces[0] == policy.opened(PROMPTS[0]) == "<think>\n"


def test_pieces_arrive_during_sampling(qwen: LanguageModel) -> None:
    """Guards against pieces that all arrive at the end. Each word here is a token."""
    when: list[int] = []
    with record_forward_passes(qwen) as seen:
        sample = LocalPolicy(qwen, GREEDY).stream(PROMPTS[0], None, lambda piece: when.append(len(seen)))
    assert sample is not None
    special = set(qwen.chat.tokenizer.all_special_ids)
    assert when == [n for n, token in enumerate(sample.ids, start=1) if token not in special]
    assert len(when) > 11


def test_an_overlong_prompt_has_no_reply(qwen: LanguageModel) -> None:
    """Guards against a crash where `sample` returns an empty group. The prompt has 7 tokens."""
    pieces: list[str] = []
    policy = LocalPolicy(qwen, GREEDY, max_prompt_tokens=6)
    assert policy.stream(PROMPTS[0], None, pieces.append) is None
    assert (pieces, policy.n_overlong) == ([], 1)


def test_streams_use_the_prefix_cache(qwen: LanguageModel) -> None:
    """Guards against a stream that does not use it, and leftovers of a callback that failed."""
    policy = LocalPolicy(with_many_stop_ids(qwen), GREEDY)
    expected = policy.sample(PROMPTS[:1], 1)[0][0]

    def give_up(piece: str) -> None:
        raise ConnectionError

    with policy.reuse_prefixes():
        with pytest.raises(ConnectionError):
            policy.stream(PROMPTS[0], None, give_up)
        pieces: list[str] = []
        assert policy.stream(PROMPTS[0], None, pieces.append) == expected
        assert "".join(pieces) == expected.text
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
def test_characters_are_never_split(text: str, pieces: list[str]) -> None:
    """Guards against half a character. Each id is a byte; spaces, and an n that may belong to n't, wait."""
    ids = list(byte_chat().tokenizer.encode(text, add_special_tokens=False))
    assert pieces_of(byte_chat(), [*ids, byte_chat().end_id]) == pieces


def test_spaces_that_the_tokenizer_removes() -> None:
    """Guards against a space that the next token removes."""
    ids = TIDY.tokenizer.convert_tokens_to_ids(["I", "'m", ",", "we", "do", "n't", "a", "!"])
    assert TIDY.decode(ids) == "I'm, we don't a!"
    assert pieces_of(TIDY, ids) == ["I", "'m", ",", " we", " do", "n't", " a", "!"]


def test_invalid_bytes() -> None:
    """Guards against a character that vanishes: an invalid byte turns all bytes around it into U+FFFD."""
    fit, unfit = (FALLBACK.tokenizer.convert_tokens_to_ids(["▁a", "<0xE2>", "<0x82>", "<0xAC>", *ids]) for ids in END)
    assert pieces_of(FALLBACK, fit) == ["a", "€b"]
    assert pieces_of(FALLBACK, unfit) == ["a", "\ufffd" * 4 + "b"]


@pytest.mark.parametrize("name", CHATS)
@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_pieces_join_to_the_text(name: str, data: st.DataObject) -> None:
    """Guards against text that comes twice or never, for random ids of seven tokenizers."""
    chat = CHATS[name]
    ids = data.draw(st.lists(st.integers(1, len(chat.tokenizer) - 1), max_size=11))
    stop = data.draw(st.booleans())
    pieces = pieces_of(chat, [*ids, chat.end_id] if stop else ids)
    assert "".join(pieces) == chat.decode(ids)
    assert "" not in pieces


@pytest.mark.parametrize("name", CHATS)
@given(data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_pieces_of_long_replies_join_to_the_text(name: str, data: st.DataObject) -> None:
    """Guards against a window that cuts a character, a space or a run of bytes; and against stop strings that end a stream
    elsewhere than the whole text."""
    chat = CHATS[name]
    token = st.integers(1, len(chat.tokenizer) - 1)
    runs = data.draw(st.lists(st.tuples(st.lists(token, min_size=1, max_size=12), st.integers(1, 9)), max_size=9))
    ids = [token for run, n in runs for token in run * n][:250]
    text, pieces = chat.decode(ids), pieces_of(chat, ids)
    assert "".join(pieces) == text
    start = data.draw(st.integers(0, len(text)))
    stops = [text[start : start + n] for n in (1, 2, 4) if text[start : start + n]]
    told: list[str] = []
    strings = StopStrings(stops, told.append)
    for piece in pieces:
        strings.add(piece)
    strings.end()
    cut = cut_at_stop(text, stops)
    assert "".join(told) == (text if cut is None else cut)


@dataclass
class CountingChat(Chat):
    """Counts the ids that are decoded."""

    n_decoded: int = 0

    def decode(self, ids: Any) -> str:
        self.n_decoded += len(ids)
        return super().decode(ids)


@pytest.mark.parametrize("words", [["Ġa", "b"], ["Ġ"], ["Ã"], [PARTS[0][:2], PARTS[0][2:]], ["<think>", "Ġa", "Ċ"]])
def test_a_reply_is_decoded_in_linear_time(words: list[str]) -> None:
    """Guards against a decoding of the whole reply for each new token, also where nothing can be passed on for long."""
    ids = [BYTE_LEVEL.tokenizer.convert_tokens_to_ids(word) for word in words]
    counts: list[int] = []
    for n in (1500, 3000):
        chat = CountingChat(BYTE_LEVEL.tokenizer, BYTE_LEVEL.stop_ids, PLAIN_TEMPLATE)
        reply = (ids * n)[:n]
        assert "".join(pieces_of(chat, reply)) == BYTE_LEVEL.decode(reply)
        counts.append(chat.n_decoded)
    assert counts[0] < 60 * 1500
    assert counts[1] < 2.5 * counts[0]
