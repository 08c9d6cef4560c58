"""Sources of edit data, registered by the name that ``data.name`` selects.

A new data set is one file here and one YAML file in ``conf/data``. The file holds a function that
makes requests of one record (a `Fields`, whose errors name the field), and registers it::

    DATA.register("mine", FileData("mine", "mine.json", "https://…", lambda data: Reading(read)))

`FileData` opens the file, drops records that cannot be used, and reports them. Every module of
this folder is imported, so nothing else has to name the new one; code outside the package
registers its own in the same way, or any function from a configuration to `EditData`.
"""

from __future__ import annotations

from alphaedit_plugin.data import sets  # noqa: F401  (registers all of them)
from alphaedit_plugin.data.base import DATA, NEIGHBOURHOOD, Dropped, EditData, Place
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.selection import select_fitting
from alphaedit_plugin.data.settings import Chosen
from alphaedit_plugin.data.source import FileData, Reading


def read_data(config: Chosen) -> EditData:
    """All requests and retained facts that ``config.data`` names; see `select_fitting`.

    Raises:
        ConfigError: unknown data, a setting that is missing or not read, or a file that is missing
            or of another kind.
    """
    return DATA.get(config.data.name)(config)


def load_data(config: Chosen) -> EditData:
    """The requests and retained facts that ``config.data`` names and selects, for any model.

    Raises:
        AlphaEditError: see `read_data` and `select_fitting`.
    """
    return select_fitting(read_data(config), config.data)


__all__ = [
    "DATA",
    "NEIGHBOURHOOD",
    "Dropped",
    "EditData",
    "Fields",
    "FileData",
    "Place",
    "Reading",
    "load_data",
    "read_data",
    "select_fitting",
]
