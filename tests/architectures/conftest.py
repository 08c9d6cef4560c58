from __future__ import annotations

from typing import Any

import pytest
from transformers import CONFIG_MAPPING
from transformers import __version__ as VERSION

from alphaedit_plugin.models.editable import EditableModel
from tests.architectures.zoo import SETTINGS, build


@pytest.fixture(scope="session", params=SETTINGS)
def animal(request: pytest.FixtureRequest, tokenizer: Any) -> EditableModel:
    """A model of each family in turn, which every test leaves as it was."""
    if request.param.partition("/")[0] not in CONFIG_MAPPING:
        pytest.skip(f"transformers {VERSION} has no {request.param}")
    return EditableModel.wrap(build(request.param, len(tokenizer)), tokenizer)
