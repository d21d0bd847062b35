"""The options of a host program, from its environment."""

from __future__ import annotations

import pytest
from regrow.errors import ProgramError
from regrow.host.options import HostOptions


def test_every_variable_is_read_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, text in (
        ("REGROW_HOST_TTL", "3"),
        ("REGROW_PARTITIONS", "4"),
        ("REGROW_APP_VERSION", "2.10"),
        ("REGROW_UPGRADE", "auto"),
    ):
        monkeypatch.setenv(variable, text)
    options = HostOptions.from_environment()
    assert (options.ttl, options.partitions) == (3.0, 4)
    assert (options.version, options.upgrade) == ("2.10", "auto")


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("REGROW_HOST_TTL", "soon", "a number of seconds"),
        ("REGROW_PARTITIONS", "1.5", "a whole number"),
        ("REGROW_PARTITIONS", "0", "1 to 1024"),
        ("REGROW_UPGRADE", "now", "`wait` or `auto`"),
    ],
)
def test_what_is_no_value_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, text: str, says: str) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ProgramError) as refused:
        HostOptions.from_environment()
    assert variable in str(refused.value)
    assert says in f"{refused.value} {refused.value.hint}"
