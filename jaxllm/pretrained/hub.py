"""A name or a path in, a folder on this machine out.

The only file that asks huggingface_hub, which comes with the extra `jaxllm[hub]`.
"""

import os
import pathlib
import re

from jaxllm.errors import CheckpointError

# What a model is read from; weights in other formats stay where they are.
_FILES = ("*.json", "*.safetensors", "merges.txt")


def find_folder(
    source: str | os.PathLike[str], revision: str | None = None
) -> pathlib.Path:
    """Find the folder of a model, downloading it if it has the name of one on the hub.

    Args:
        source: a folder, or OWNER/NAME on huggingface.co; the path wins where both are
            there. A download shows its progress and stays in Hugging Face's cache,
            which also serves when the network does not.
        revision: a branch, tag or commit of a model on the hub.

    Raises:
        CheckpointError: there is no such folder, and no such model within reach; or a
            folder has been given with a revision, which only the hub knows.
    """
    folder = pathlib.Path(source)
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"a revision is for a model on the hub, {source} is a folder; leave "
                f"{revision!r} out"
            )
        return folder
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise CheckpointError(
            f"{source} must be a folder, or the OWNER/NAME of a model on the hub"
        )
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"there is no folder {source}; to look for a model of this name on the "
            "hub, install jaxllm[hub]"
        ) from error
    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                str(source), revision=revision, allow_patterns=list(_FILES)
            )
        )
    except (OSError, ValueError) as error:
        # Its errors about repositories, revisions and the network are OSErrors.
        raise CheckpointError(
            f"{source} is no folder, and was not found on the hub: {error}"
        ) from error
