from __future__ import annotations

import pytest

from alphaedit_plugin.common.errors import ConfigError, ModelError, unknown_name
from alphaedit_plugin.common.registry import Registry


@pytest.fixture
def registry() -> Registry[int]:
    registry: Registry[int] = Registry("base method")
    for number, name in enumerate(("rome", "memit", "rect")):
        registry.register(name, number)
    return registry


def test_what_is_registered_is_found(registry: Registry[int]) -> None:
    assert registry.get("memit") == 1
    assert "memit" in registry
    assert list(registry) == ["memit", "rect", "rome"]


def test_a_taken_name_is_refused_and_kept(registry: Registry[int]) -> None:
    with pytest.raises(ConfigError, match="base method 'rome' is registered already"):
        registry.register("rome", 9)
    assert registry.get("rome") == 0


def test_an_unknown_name_gets_the_nearest(registry: Registry[int]) -> None:
    with pytest.raises(ConfigError, match=r"unknown base method 'mimit'.*did you mean 'memit'"):
        registry.get("mimit")


def test_the_error_is_of_the_type_asked_for(registry: Registry[int]) -> None:
    with pytest.raises(ModelError, match="unknown base method"):
        registry.get("x", error=ModelError)


def test_unregistering(registry: Registry[int]) -> None:
    registry.unregister("rect")
    assert "rect" not in registry
    with pytest.raises(ConfigError, match="unknown"):
        registry.unregister("rect")
    registry.register("rect", 5)
    assert registry.get("rect") == 5


def test_registries_share_nothing(registry: Registry[int]) -> None:
    other: Registry[int] = Registry("base method")
    assert list(other) == []
    other.register("rome", 7)
    assert registry.get("rome") == 0


def test_names_far_from_all_get_no_hint_but_the_list() -> None:
    message = unknown_name("model type", "zzz", ["gpt2", "llama"])
    assert "did you mean" not in message
    assert "gpt2, llama" in message


def test_an_empty_registry_still_has_a_message() -> None:
    assert unknown_name("model type", "zzz", []).startswith("unknown model type 'zzz'")
