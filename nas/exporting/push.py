"""Exported networks on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from nas.errors import MissingDependencyError, NasError, UsageError

REPLACED = ["model.*", "proof.json"]
"""Files of an earlier network that must not stay beside this one's."""


def check_push(name: str) -> None:
    """Make sure that a network can be pushed, before it is exported.

    Raises:
        UsageError: The name is none that the hub can have, or nobody is logged in.
        MissingDependencyError: The package `huggingface_hub` is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingDependencyError(
            "pushing needs the package `huggingface_hub`, which is not installed", hint="pip install huggingface_hub"
        ) from error
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
        is_valid = name.count("/") == 1
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise UsageError(f"`--push` is `{name}`, expected `USER/NAME` as on the Hugging Face hub")
    if huggingface_hub.get_token() is None:
        raise UsageError(
            "nobody is logged in to the Hugging Face hub, expected a token that may write",
            hint="`hf auth login`, or set HF_TOKEN",
        )


def push_export(folder: Path, name: str) -> str:
    """Put the files of an export into a repository of models, which is made where there is none.

    Args:
        folder: The export.
        name: ``USER/NAME``.

    Returns:
        The address of the repository.

    Raises:
        UsageError, MissingDependencyError: As `check_push`.
        NasError: The hub refuses, or cannot be reached.
    """
    check_push(name)
    from huggingface_hub import HfApi

    hub = HfApi(library_name="nas-vit")
    try:
        address = str(hub.create_repo(name, repo_type="model", exist_ok=True))
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message="A network of nas", delete_patterns=REPLACED)
    except Exception as error:  # the hub's client raises classes of its own and of its transport
        reason = (_without_token(str(error)).strip().splitlines() or [type(error).__name__])[0]
        raise NasError(
            f"`{folder}` cannot be pushed to `{name}`: {reason}",
            hint="the export is whole; run the same command again",
        ) from None
    return address


def _without_token(text: str) -> str:
    import huggingface_hub

    token = huggingface_hub.get_token()
    return text.replace(token, "***") if token else text
