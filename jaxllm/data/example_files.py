"""The name of examples of a task, or a path, in; the file that holds them out."""

import os
import pathlib
from typing import NamedTuple

from jaxllm.data import disk
from jaxllm.errors import DataError


class Known(NamedTuple):
    """Examples that many have used: their file, and where a person finds it."""

    file: str
    address: str
    columns: tuple[str, ...] | None = None


_BOOK = "https://github.com/rasbt/LLMs-from-scratch/tree/main/ch07"

KNOWN = {
    "sms-spam": Known(
        "SMSSpamCollection.tsv",
        "https://archive.ics.uci.edu/dataset/228/sms+spam+collection",
        ("label", "text"),
    ),
    "instruction-data": Known("instruction-data.json", _BOOK),
    "instruction-preferences": Known("instruction-data-with-preference.json", _BOOK),
}


class ExampleFile(NamedTuple):
    """Where examples lie, and what their columns are called if they do not say it."""

    path: pathlib.Path
    columns: tuple[str, ...] | None = None


def find(name_or_path: str | os.PathLike[str]) -> ExampleFile:
    """Find the file of known examples by their name; any other name is a path.

    Known examples lie in the folder $JAXLLM_DATA, or in the cache that `jaxllm` keeps.

    Raises:
      DataError: they do not; the message says where they come from.

    >>> find("reviews.csv")
    ExampleFile(path=PosixPath('reviews.csv'), columns=None)
    """
    known = KNOWN.get(str(name_or_path))
    if known is None:
        return ExampleFile(pathlib.Path(name_or_path))
    path = disk.find_data(known.file)
    if path is None:
        raise DataError(
            f"{name_or_path} needs {known.file} in "
            f"{' or '.join(map(str, disk.data_folders()))}; it comes from "
            f"{known.address}"
        )
    return ExampleFile(path, known.columns)
