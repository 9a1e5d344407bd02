"""Push a model's folder to a repository on the Hugging Face hub.

The token is the one that `hf auth login` has stored, or HF_TOKEN. It goes to the hub only, never into a file or a message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from httpx2 import TransportError
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils._validators import validate_repo_id

from rethink.credentials import KEY_PREFIXES, is_key, proxy_passwords, scrub
from rethink.errors import UserError

OF_A_MODEL = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "*.bin.index.json",
    "adapter_config.json",
    "chat_template*",
    "additional_chat_templates/*",
    "*processor_config.json",
)
"""Files that a push removes from a repository if it does not replace them: two sets of weights are no model, and the
libraries would take an older adapter, chat template or image processor for this model's."""

ALWAYS_THERE = {".gitattributes"}
"""Files of a new repository."""


@dataclass(frozen=True)
class Repository:
    """A repository that can be pushed to: its whole name, USER/NAME, and the token. `exists` if it is there already."""

    name: str
    exists: bool
    token: str = field(repr=False)


def find_repository(name: str, exist_ok: bool = False, private: bool = False) -> Repository:
    """Return the repository with this name, of the token's user if it names none.

    Raise UserError without a token or a network, if the hub refuses the token, for a repository with files, unless
    `exist_ok`: nothing is ever replaced unasked; and, with `private`, for one that others can read."""
    if KEY_PREFIXES.match(name) and is_key(name):
        raise UserError(
            "--push takes the name of a repository, not a token (replace a token that was on a command line)"
        )
    try:
        validate_repo_id(name)
    except ValueError as err:
        raise UserError(f"--push: {str(err).splitlines()[0]}") from err
    if constants.HF_HUB_OFFLINE:
        raise UserError("cannot push: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set; unset it")
    token = get_token()
    if not token:
        raise UserError("cannot push without a token: run `hf auth login`, or set HF_TOKEN (a token that may write)")
    api = HfApi(token=token)
    try:
        user = api.whoami()["name"]
    except Exception as err:  # whatever the library's HTTP client raises
        raise _refusal(err, token, "the hub refused the token: run `hf auth login`, or set HF_TOKEN") from err
    whole = name if "/" in name else f"{user}/{name}"
    try:
        info = api.model_info(whole)
    except RepositoryNotFoundError:
        return Repository(whole, False, token)
    except Exception as err:
        raise _refusal(err, token, f"the hub does not let this token read {whole}") from err
    if private and info.private is not True:
        raise UserError(
            f"--private: the repository {whole} exists and is public; make it private in its settings on the hub, or "
            "choose another name"
        )
    files = {file.rfilename for file in info.siblings or ()} - ALWAYS_THERE
    if files and not exist_ok:
        raise UserError(
            f"the repository {whole} already has files ({', '.join(sorted(files)[:3])}, ...); choose another name, or "
            "replace its model by --exist-ok"
        )
    return Repository(whole, True, token)


def push(folder: Path, repository: Repository, private: bool, message: str) -> str:
    """Upload the folder, to a new repository if there is none, and return the address. Raise UserError if that fails."""
    api, token = HfApi(token=repository.token), repository.token
    if not repository.exists:
        try:  # without `private`, the hub decides: public, unless an organization has chosen otherwise
            api.create_repo(repository.name, private=True if private else None)
        except Exception as err:
            why = f"the hub refused to create {repository.name}; may this token write there?"
            raise _refusal(err, token, why) from err
    try:
        api.upload_folder(
            repo_id=repository.name,
            folder_path=folder,
            commit_message=message,
            delete_patterns=list(OF_A_MODEL) if repository.exists else None,
        )
    except Exception as err:
        why = f"the upload to {repository.name} failed; the same command with --exist-ok continues it"
        raise _refusal(err, token, why) from err
    return f"{constants.ENDPOINT}/{repository.name}"


def _refusal(err: Exception, token: str, refused: str) -> UserError:
    """Return the error for the user: the hub refused, has a fault, or cannot be reached."""
    cause: BaseException = err
    while cause.__cause__ is not None and not isinstance(cause, HfHubHTTPError | TransportError):
        cause = cause.__cause__
    why = scrub(" ".join(str(cause).split()) or repr(cause), [token, *proxy_passwords()])
    if isinstance(cause, TransportError):
        return UserError(f"cannot push: the hub ({constants.ENDPOINT}) cannot be reached ({why})")
    return UserError(f"{refused} ({why})")
