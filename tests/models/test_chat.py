"""Messages to ids and back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rethink.errors import UserError
from rethink.models import make_tiny
from rethink.models.chat import PLAIN_TEMPLATE, Chat
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.prompts import Prompts
from rethink.types import Message, Problem, Sample, Sampling, Verdict

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking | default(true) %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
PROBLEM = Problem("p", "1 + 1?", "2", lambda reply, gold: Verdict(reply == gold))
TEXTS = Prompts("{question} Box it.", "Check it.")


def refining(texts: Prompts, draft: str) -> tuple[Message, ...]:
    return texts.messages(PROBLEM, "refine", (draft,))


def byte_chat(template: str | None = None) -> Chat:
    """A byte-level tokenizer (one merge: a and b) with the marks of ChatML."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, [("a", "b")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    words = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )
    return Chat(words, frozenset({words.eos_token_id}), template)


def demo_chat(template: str | None = None) -> Chat:
    words = make_tiny.tokenizer()
    return Chat(words, frozenset({words.eos_token_id}), template)


def draft(text: str, problem: Problem = PROBLEM) -> Sample:
    """A graded draft with this text."""
    ((sample,),) = FakePolicy(lambda prompt, index, version: text).sample(TEXTS.ask([problem]), 1)
    return sample.with_verdict(problem.grade(text))


def rendered(chat: Chat, messages: tuple[Message, ...]) -> str:
    """The prompt as text, by way of its ids, special tokens and all."""
    return str(chat.tokenizer.decode(list(chat.encode(messages)), skip_special_tokens=False))


USER, REPLY, END = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"


@pytest.mark.parametrize(
    ("chat", "system", "expected"),
    [
        (byte_chat(), "", f"{USER}1 + 1? Box it.{END}{REPLY}2{END}{USER}Check it.{END}{REPLY}"),
        (
            byte_chat(),
            "Be brief.",
            f"<|im_start|>system\nBe brief.{END}{USER}1 + 1? Box it.{END}{REPLY}2{END}{USER}Check it.{END}{REPLY}",
        ),
        (byte_chat(PLAIN_TEMPLATE), "", "Question: 1 + 1? Box it.\n\nAnswer: 2\n\nQuestion: Check it.\n\nAnswer:"),
        (
            byte_chat(PLAIN_TEMPLATE),
            "Be brief.",
            "Be brief.\n\nQuestion: 1 + 1? Box it.\n\nAnswer: 2\n\nQuestion: Check it.\n\nAnswer:",
        ),
    ],
    ids=["chatml", "chatml with system", "plain", "plain with system"],
)
def test_rendered_refine_prompts(chat: Chat, system: str, expected: str) -> None:
    """Guards against a turn that is lost, doubled or in the wrong role, and an opening of the reply that is missing."""
    (ask,) = replace(TEXTS, system=system).ask_to_refine([draft("2")])
    assert rendered(chat, ask.messages) == expected
    assert (ask.phase, ask.draft) == ("refine", draft("2"))


def test_rendered_demo_prompts() -> None:
    """Guards against words of the demo that its own tokenizer does not know."""
    problem = replace(PROBLEM, question="3 7 5 -> 26")
    texts = Prompts("{question}", "again")
    (ask,) = texts.ask([problem])
    (again,) = texts.ask_to_refine([draft("7 - 3 = 4 ; 4 * 5 = 20 ? 3 * 7 = 21", problem)])
    solve = "<user> 3 7 5 -> 26 <reply>"
    assert rendered(demo_chat(), ask.messages) == solve
    assert rendered(demo_chat(), again.messages) == f"{solve} 7 - 3 = 4 ; 4 * 5 = 20 ? 3 * 7 = 21 <user> again <reply>"


CONTINUED = (Message("user", "3 7"), Message("assistant", "3 * 7 ; 3"), Message("user", "again"))


@pytest.mark.parametrize(
    ("chat", "opening"),
    [
        (byte_chat(), f"{USER}3 7{END}{REPLY}3 * 7 ; 3{END}{USER}again{END}{REPLY}"),
        (byte_chat(PLAIN_TEMPLATE), "Question: 3 7\n\nAnswer: 3 * 7 ; 3\n\nQuestion: again\n\nAnswer: "),
        (demo_chat(), "<user> 3 7 <reply> 3 * 7 ; 3 <user> again <reply> "),
    ],
    ids=["chatml", "plain", "demo"],
)
@pytest.mark.parametrize("blanks", ["", " ", "\n\n", " \t\n"])
def test_a_last_turn_of_the_assistant_is_continued(chat: Chat, opening: str, blanks: str) -> None:
    """Guards against an end token, an opening of another turn or blanks behind what is to be continued, with templates
    that trim and such as do not. The text occurs twice, so that the last one must be found."""
    messages = (*CONTINUED, Message("assistant", f"3 * 7{blanks}"))
    assert rendered(chat, messages) == f"{opening}3 * 7"
    assert chat.encode(messages) == tuple(chat.tokenizer.encode(f"{opening}3 * 7", add_special_tokens=False))


@pytest.mark.parametrize("chat", [byte_chat(), byte_chat(PLAIN_TEMPLATE), demo_chat()], ids=["chatml", "plain", "demo"])
@pytest.mark.parametrize("blanks", ["", " \n"])
def test_an_empty_last_turn_is_only_opened(chat: Chat, blanks: str) -> None:
    """Guards against a turn that is closed because there is nothing in it."""
    messages = (Message("user", "3 7"), Message("assistant", blanks))
    assert chat.encode(messages) == chat.encode(messages[:1])


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}{% endfor %}",
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}",
        "{% for m in messages %}{{ m['role'] }}{% endfor %}",
    ],
    ids=["drops the thinking", "drops replies", "drops everything"],
)
def test_a_template_that_cannot_leave_a_turn_open_is_refused(template: str) -> None:
    """Guards against a traceback, and a prompt in which the text to go on with is missing."""
    with pytest.raises(UserError, match="cannot be continued; end the conversation with a user message"):
        byte_chat(template).encode((Message("user", "1 + 1?"), Message("assistant", "<think>so</think>2")))


def test_a_broken_template_is_not_taken_for_one_that_cannot_continue() -> None:
    """Guards against the wrong remedy: only a turn that is to be continued can fail for that reason."""
    with pytest.raises(ValueError, match="substring not found"):
        byte_chat("{{ messages[0]['content'].index('7') }}").encode((Message("user", "1 + 1?"),))


def test_a_draft_brings_no_end_token_into_the_next_prompt() -> None:
    """Guards against two end tokens between turns, the reply's own and the template's."""
    chat = byte_chat()
    text = chat.decode(chat.encode_reply("1 + 1 = 2"))
    assert text == "1 + 1 = 2"
    ids = chat.encode(refining(TEXTS, text))
    # One behind each of the three turns.
    assert ids.count(chat.end_id) == 3
    assert "<|im_end|><|im_end|>" not in rendered(chat, refining(TEXTS, text)).replace("\n", "")


def test_sampled_drafts_bring_no_end_token_into_the_next_prompt(qwen: LanguageModel) -> None:
    """The same by way of the sampler, for replies that stopped at either of two ids."""
    qwen.chat.template = "{% for m in messages %}<user> {{ m['content'] }} <end> {% endfor %}<reply>"
    qwen.chat.stop_ids = frozenset({1, 5})
    policy = LocalPolicy(qwen, Sampling(max_tokens=11))
    texts = Prompts("{question}", "again")
    (group,) = policy.sample(texts.ask([replace(PROBLEM, question="3 7 5 -> 26")]), 97)
    assert {s.ids[-1] for s in group if s.stop == "stop"} == {1, 5}
    for asked in texts.ask_to_refine(group):
        assert qwen.chat.encode(asked.messages).count(1) == 3


def test_what_was_sampled_is_what_is_trained(qwen: LanguageModel) -> None:
    """Guards against a prompt that is tokenized twice, and ids that come back from the reply's text: the
    demo's tokenizer cannot give back marks that a random model puts into its replies."""
    policy = LocalPolicy(qwen, Sampling(max_tokens=11))
    texts = Prompts("{question}", "again")
    solved = policy.sample(texts.ask([replace(PROBLEM, question="3 7 5 -> 26")]), 31)
    refined = policy.sample(texts.ask_to_refine(solved[0]), 2)
    samples = [s for group in (*solved, *refined) for s in group]
    assert {s.prompt_ids == qwen.chat.encode(s.prompt.messages) for s in samples} == {True}
    retold = [(*qwen.chat.tokenizer.encode(s.text), *s.ids[len(s.ids) - (s.stop == "stop") :]) for s in samples]
    assert any(ids != s.ids for ids, s in zip(retold, samples, strict=True))


def test_ids_that_do_not_survive_their_text() -> None:
    """Guards against the belief that decoding and encoding are inverse: `a`, `b` comes back as `ab`."""
    chat = byte_chat()
    a, b, ab = chat.tokenizer.convert_tokens_to_ids(["a", "b", "ab"])
    assert chat.decode((a, b, chat.end_id)) == chat.decode((ab,)) == "ab"
    assert chat.encode_reply("ab") == (ab, chat.end_id)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("3 * 7 <end>", "3 * 7"),
        ("3 <user> * <pad> 7 <end>", "3 * 7"),
        ("3 * 7", "3 * 7"),
        # Only the last id can be the end of the reply; any other stop id would have been.
        ("3 * 7 ?", "3 * 7"),
        ("3 ? * 7", "3 ? * 7"),
        ("<end>", ""),
        ("", ""),
    ],
)
def test_the_text_of_a_reply(words: str, text: str) -> None:
    """Guards against special tokens in what verifiers and prompts get to see, and `ids[-1]` of an empty reply."""
    chat = demo_chat()
    number = chat.tokenizer.convert_tokens_to_ids
    chat.stop_ids = frozenset({number("<end>"), number("?")})
    assert chat.decode(tuple(map(number, words.split()))) == text


def test_the_end_token_of_transcripts_is_one_that_stops_replies() -> None:
    """Guards against demonstrations that teach an end token at which the sampler does not stop."""
    words = make_tiny.tokenizer()
    assert Chat(words, frozenset({1, 5})).end_id == words.eos_token_id == 1
    assert Chat(words, frozenset({7, 5})).end_id == 5


def test_a_tokenizer_without_end_token_is_refused() -> None:
    """Guards against replies that all run into their cap."""
    with pytest.raises(UserError, match="names an end token"):
        Chat(make_tiny.tokenizer(), frozenset())


@pytest.fixture
def base_model(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A model without a chat template."""
    folder = shutil.copytree(model_folders["qwen3"], tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    return folder


def test_a_model_without_template_is_refused_with_the_remedy(base_model: Path) -> None:
    """Guards against a traceback from jinja, or a made-up template."""
    with pytest.raises(UserError, match=r'no chat template; set model\.template = "plain"'):
        load_model(str(base_model))


def test_templates_by_name_and_by_file(base_model: Path, tmp_path: Path) -> None:
    """Guards against a template that is taken for another, and a file name that is rendered as if it were one."""
    messages = (Message("user", "3 7"), Message("assistant", "21"), Message("user", "again"))
    plain = load_model(str(base_model), template="plain").chat
    assert plain.template == PLAIN_TEMPLATE
    chatml = load_model(str(base_model), template="chatml").chat
    assert rendered(replace(byte_chat(), template=chatml.template), messages) == (
        f"{USER}3 7{END}{REPLY}21{END}{USER}again{END}{REPLY}"
    )
    file = tmp_path / "reversed.jinja"
    file.write_text("{% for m in messages | reverse %}{{ m['content'] }} {% endfor %}")
    chat = load_model(str(base_model), template=str(file)).chat
    assert rendered(chat, messages) == "again 21 3 7"
    with pytest.raises(UserError, match=r'is not "plain", "chatml" or a file: nowhere\.jinja'):
        load_model(str(base_model), template="nowhere.jinja")


def test_a_template_given_replaces_the_tokenizers_own(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Guards against a setting that only counts where there is nothing to replace."""
    file = tmp_path / "last.jinja"
    file.write_text("{{ messages[-1]['content'] }} <reply>")
    chat = load_model(str(model_folders["qwen3"]), template=str(file)).chat
    assert rendered(chat, (Message("user", "3"), Message("user", "7"))) == "7 <reply>"


def test_template_options_reach_the_template() -> None:
    """Guards against `enable_thinking = false` that changes nothing."""
    chat = byte_chat()
    asked = (Message("user", "1 + 1?"),)
    assert rendered(chat, asked) == f"{USER}1 + 1?{END}{REPLY}"
    chat.options = {"enable_thinking": False}
    assert rendered(chat, asked) == f"{USER}1 + 1?{END}{REPLY}<think>\n\n</think>\n\n"
