from __future__ import annotations

from typing import Any

import pytest

from alphaedit_plugin.models import EditableModel
from tests.architectures.zoo import SETTINGS, build


@pytest.fixture(scope="session", params=SETTINGS)
def animal(request: pytest.FixtureRequest, tokenizer: Any) -> EditableModel:
    """A model of each family in turn, which every test leaves as it was."""
    return EditableModel.wrap(build(request.param, len(tokenizer)), tokenizer)
