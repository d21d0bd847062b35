"""Settings from the environment."""

from __future__ import annotations

import pytest
from regrow_service.settings import InvalidSetting, ServiceSettings, read, table


def test_defaults_hold_where_nothing_is_set() -> None:
    """An empty environment, and empty variables, give the defaults."""
    assert read(ServiceSettings, {}) == ServiceSettings()
    assert read(ServiceSettings, {"REGROW_HEALTH_PORT": "", "HEALTH_PORT": "1"}) == ServiceSettings()


def test_values_are_converted() -> None:
    """Text becomes what the field's type says."""
    settings = read(ServiceSettings, {"REGROW_HEALTH_PORT": "8080", "REGROW_STOP_DEADLINE": "2.5"})
    assert (settings.health_port, settings.stop_deadline) == (8080, 2.5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("REGROW_HEALTH_PORT", "eighty"),
        ("REGROW_HEALTH_PORT", "65536"),
        ("REGROW_STOP_DEADLINE", "-1"),
        ("REGROW_LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, text: str) -> None:
    """The error says which variable, which value, and what the setting is for."""
    with pytest.raises(InvalidSetting) as caught:
        read(ServiceSettings, {name: text})
    assert name in str(caught.value)
    assert text in str(caught.value)
    assert caught.value.hint


def test_every_setting_is_documented() -> None:
    """The reference has a sentence for each."""
    rows = table(ServiceSettings)
    assert ("REGROW_NATS_URL", "nats://127.0.0.1:4222") in [row[:2] for row in rows]
    assert all(meaning.endswith(".") for _, _, meaning in rows)
