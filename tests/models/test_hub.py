"""Names on the hub, when it cannot be reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from rethink.errors import UserError
from rethink.models import hub


class Session:
    """Counts requests; with an error, raises it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.n_requests = 0

    def head(self, url: str, **options: Any) -> None:
        self.n_requests += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_the_hub_is_asked_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: without a network, the library tried for 71 seconds, and then named neither path nor remedy."""
    offline = Session(OSError("Name or service not known"))
    monkeypatch.setattr(hub, "get_session", lambda: offline)
    for name in ("someone/model", "my model!"):
        with pytest.raises(
            UserError, match=f"no model folder {name}, and the hub .* cannot be reached .*Name or service"
        ):
            hub.folder_if_offline(name)
    assert offline.n_requests == 2


def test_models_in_the_cache_need_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against refusing a model that was downloaded, and against the cache where the hub may have a newer one."""
    folder = cache / "models--someone--model" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder.parent.parent / "refs").mkdir()
    (folder.parent.parent / "refs" / "main").write_text("abc")
    monkeypatch.setattr(hub, "get_session", lambda: Session(OSError("offline")))
    assert hub.folder_if_offline("someone/model") == str(folder)
    monkeypatch.setattr(hub, "get_session", lambda: Session())
    assert hub.folder_if_offline("someone/model") == "someone/model"
