"""Prompts with images as requests to vLLM, without a server."""

from __future__ import annotations

import base64
import io

import PIL.Image
import pytest
import torch

from rethink.errors import UserError
from rethink.images import FIRST_ID, has_images, read_image
from rethink.models.chat import Chat
from rethink.models.model_info import read_model_info
from rethink.policies.token_policy import Generation
from rethink.policies.vllm.colocated import ColocatedModel, server_command
from rethink.policies.vllm.protocol import generate_body, read_generated, score_body
from rethink.policies.vllm.wire_prompt import wire_prompt
from rethink.settings import ModelSource, Sampler
from rethink.types import Message, Sampling
from support.images import image
from support.vision_models import VISION, save_vision_model

RED, WIDE = image(), image("green", (90, 30))
ASKED = (
    Message("user", "Is <image> like <image>?", (RED, WIDE)),
    Message("assistant", "no"),
    Message("user", "And this?", (RED,)),
)


@pytest.fixture(scope="module", params=VISION)
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chat:
    folder = save_vision_model(tmp_path_factory.mktemp("vision"), request.param)
    info = read_model_info(ModelSource(str(folder)))
    assert info is not None
    return info.chat


def test_ids_have_one_place_for_each_image(chat: Chat) -> None:
    """Guards against places that vLLM's processor would expand twice, and images in another order. Compared with the ids of
    the text that the template writes, before a processor expands it."""
    assert chat.image_text is not None
    ids = (*chat.encode(ASKED), 70, 71)
    prompt = wire_prompt(ids, chat)
    tokenizer = chat.image_text.tokenizer
    assert prompt.body["token_ids"] == [*tokenizer.encode(chat.render(ASKED), add_special_tokens=False), 70, 71]
    assert [part["uuid"] for part in prompt.body["content_parts"]] == [RED.digest, WIDE.digest, RED.digest]
    assert [i if i < FIRST_ID else chat.image_text.token_id for i in ids] == prompt.computed


def test_a_prompt_without_images_has_only_ids(chat: Chat) -> None:
    """Guards against requests of text that wait for an image processor."""
    ids = chat.encode((Message("user", "1+1?"),))
    assert not has_images(ids)
    assert wire_prompt(ids, chat).body == {"token_ids": list(ids)}


def test_an_answer_to_other_ids_is_refused(chat: Chat) -> None:
    """Guards against log-probs of another prompt: of images of other sizes, or of a server that ignores them."""
    prompt = wire_prompt(chat.encode(ASKED), chat)
    body, sampling = generate_body(prompt, 3, 0, Sampling(max_tokens=2), {1}), Sampling(max_tokens=2)
    assert body["return_token_ids"]
    assert score_body(prompt)["content_parts"] == body["content_parts"]
    answer = (
        '{"choices": [{"token_ids": [5, 1], "finish_reason": "stop", "weight_versions": [{"version": "a"}], "logprobs": '
        '{"content": [{"logprob": -1.0}, {"logprob": -2.0}]}}], "prompt_token_ids": %s}'
    )
    found = read_generated("a", prompt, sampling, {1}, 200, (answer % prompt.computed).encode())
    assert isinstance(found, Generation)
    assert found.ids == [5, 1]
    n, first, start = len(prompt.computed), prompt.computed[0], prompt.computed[:2]
    messages = {
        str(prompt.computed[:-1]): f"vLLM makes {n - 1} ids of a prompt with images, and the trainer {n}[.] Its images",
        str([*start, -7, *prompt.computed[3:]]): f"trainer {n}; .* is -7, not {prompt.computed[2]}, at position 2[.]",
        str([-7, *prompt.computed]): f"{n + 1} ids .* trainer {n}; .* is -7, not {first}, at position 0[.]",
        "null": "the server returns no prompt ids for a prompt with images",
    }
    for wrong, message in messages.items():
        with pytest.raises(UserError, match=message):
            read_generated("a", prompt, sampling, {1}, 200, (answer % wrong).encode())


def png_of(pil_image: PIL.Image.Image, kind: str = "PNG", **how: object) -> bytes:
    stream = io.BytesIO()
    pil_image.save(stream, kind, **how)
    return stream.getvalue()


def test_an_image_is_sent_as_it_is_opened() -> None:
    """Guards against vectors of an image that lies on its side, or has a black background, at the server alone."""
    plain = PIL.Image.linear_gradient("L").convert("RGB").resize((30, 20))
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    half = plain.convert("RGBA")
    half.putalpha(PIL.Image.linear_gradient("L").resize((30, 20)))
    files = {
        "plain": png_of(plain),
        "jpeg": png_of(plain, "JPEG"),
        "turned": png_of(plain, "JPEG", exif=turned),
        "transparent": png_of(half),
        "one color is transparent": png_of(plain, transparency=(0, 0, 0)),
        "palette": png_of(plain.convert("P")),
        "gif": png_of(plain.convert("P"), "GIF"),
    }
    for name, file in files.items():
        own = read_image(file, name)
        sent = base64.b64decode(own.rgb_url().partition(",")[2])
        assert (sent == file) == (name in ("plain", "jpeg")), name
        read = PIL.Image.open(io.BytesIO(sent))
        assert read.mode == "RGB", name
        assert read.tobytes() == own.open().tobytes(), name


def test_a_colocated_server_reads_images_as_the_trainer() -> None:
    """Guards against a server without a tokenizer, which cannot read images, and images of other sizes."""
    model = ColocatedModel("a/model", torch.device("cpu"), torch.float32, 128, takes_images=True, pixels=(256, 1024))
    line = server_command(model, Sampler("vllm"), "/socket")
    assert "--tokens-only" not in line
    assert "--enable-scale-out" in line
    assert line[line.index("--mm-processor-kwargs") + 1] == '{"size": {"shortest_edge": 256, "longest_edge": 1024}}'


def test_a_tokenizer_that_joins_an_image_with_words_is_an_error(chat: Chat) -> None:
    """Guards against a place that is put among the ids of words."""
    ids = list(chat.encode(ASKED))
    first = next(k for k, i in enumerate(ids) if i >= FIRST_ID)
    with pytest.raises(UserError, match=r"joins the text of the image .* or sampler\.engine=local"):
        wire_prompt([*ids[: first + 1], 60, *ids[first + 1 :]], chat)


def test_a_reply_with_an_image_token_is_refused(chat: Chat) -> None:
    """Guards against a token that the model has sampled, and that vLLM would take for the place of one more image."""
    assert chat.image_text is not None
    ids = chat.encode(ASKED)
    for token in (chat.image_text.place, chat.image_text.token):
        own = chat.image_text.tokenizer.convert_tokens_to_ids(token)
        with pytest.raises(UserError, match=r"the reply contains the model's image token .* sampler\.engine=local"):
            wire_prompt((*ids, 70, own, 71), chat)
