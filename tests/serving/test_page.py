"""docs/serving.md: its commands and examples run, and its tables have the parameters and limits of the code."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rethink.images import MOST_PIXELS
from rethink.serving.chat_request import IGNORED, ROLES, USED
from rethink.serving.limits import Limits
from rethink.settings import Sampler
from support.processes import exit_code
from support.serving_process import Running, start_server

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server of the page's first command, on a free port."""
    [command] = re.findall(r"^rethink serve (.*)$", blocks("console")[0], re.MULTILINE)
    running = start_server(tmp_path_factory.mktemp("server"), *shlex.split(command))
    yield running
    running.process.terminate()
    exit_code(running.process)


@pytest.mark.slow
def test_the_python_example_runs(server: Running) -> None:
    """Guards against a first example that does not run, or shows no drafts."""
    shown = output_of("from openai", server)
    assert shown.startswith("Draft:\n")
    assert "'phase': 'merge'" in shown


@pytest.mark.slow
@pytest.mark.parametrize(("module", "words"), [("langchain_openai", "'phase': 'merge'"), ("pydantic_ai", "Draft:\n")])
def test_the_examples_of_other_clients_run(module: str, words: str, server: Running) -> None:
    """Guards against examples that no longer run, or do not get the reply that the page names for this seed."""
    pytest.importorskip(module, reason=f"{module} is not installed")
    shown = output_of(f"from {module}", server)
    assert words in shown
    assert "3 * 4 = 12 + 5 = 17 ; 2 * 7 = 14 - 9 = 5 ; 6 * 8 = 48 + 4 = 52" in shown


def output_of(begin: str, server: Running) -> str:
    """Run the example that begins with these words in a process, and return what it prints."""
    [code] = [block for block in blocks("python") if block.startswith(begin)]
    assert code.count(ADDRESS) == 1
    command = [sys.executable, "-c", code.replace(ADDRESS, server.url)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_curl_example_runs(server: Running) -> None:
    """Guards against quotes, headers or names that no longer work."""
    [command] = [block for block in blocks("console") if block.startswith("curl")]
    words = shlex.split(command.replace(ADDRESS, server.url))
    done = subprocess.run([*words, "--silent", "--noproxy", "*"], capture_output=True, text=True, check=True)
    assert '"reasoning_content": "Draft:' in done.stdout


def test_the_page_names_every_parameter_and_limit() -> None:
    """Guards against a parameter or a limit that the page lacks, or gives another number."""
    for name in {*USED, *IGNORED, *ROLES} - {"prompt_cache_retention"}:
        assert re.search(rf"\b{name}\b", PAGE), name
    limits = Limits()
    numbers = {
        "prompt of a pass": f"{Sampler().max_prompt_tokens:,} tokens",
        "reply of a pass": f"{limits.max_tokens:,} tokens",
        "choices of a request": str(limits.max_n),
        "images of a request": str(limits.max_images),
        "an image": f"{MOST_PIXELS // 10**6} million pixels",
        "replies that a request draws": str(limits.max_samples),
        "choices that are worked on at once": str(limits.concurrency),
        "choices that wait": str(limits.queue),
        "body": f"{limits.body_bytes >> 20} MiB, {limits.body_s:g} s",
        "body, if the model takes images": f"{limits.image_body_bytes >> 20} MiB, {limits.body_s:g} s",
    }
    for what, limit in numbers.items():
        assert f"| {what} | {limit} |" in PAGE
    assert f"{limits.grace_s:g} seconds (`--grace`)" in PAGE
