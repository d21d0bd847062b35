"""What harnesses have in common that are run once for each message, with their tools over MCP.

The driver feeds them (`launching/driver.sh`); what they tell as lines of JSON goes to the door `output`
(`launching/tell.sh`), where `TurnHarness.told` makes entries of the conversation of it. So no machine needs more than
the harness, tmux and curl. Common options: `program`, what to run, as `npx codex`; `args`, further arguments for it.
"""

from __future__ import annotations

import shlex
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

from msgspec import Struct
from regrow_protocol import messages
from regrow_protocol.agents import Launch, LaunchFile, Usage

from ..harness import BadSetting, Harness, Setting, script, spooled

SERVER = "regrow"
"""What the gateway is called among the harness's MCP servers."""
PATIENCE = 7 * 86_400
"""Seconds that a harness waits for a tool: tools have time-outs of their own, and what they call may be parked."""
CURL = """header = "Authorization: Bearer {token}"
header = "Regrow-Session: {session}"
header = "Expect:"
"""
SHOWN = 2000
"""Characters of what is only to be read by people."""


class Told(NamedTuple):
    """An entry that a harness's line makes.

    Attributes:
        type: `text`, `usage` or `note`.
        data: encodable as a JSON object.
        shown: in the agent's terminal.
    """

    type: str
    data: Mapping[str, Any] | Struct
    shown: str = ""


class TurnHarness(Harness):
    """One turn is one run of a program."""

    messages = "spool"
    program: ClassVar[str]
    """Its usual name."""
    how: ClassVar[str]
    """To install it."""
    known_options: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def turn(self, setting: Setting) -> str:
        """Text for `sh` that defines `harness` and `worth`, see `launching/tell.sh`.

        Raises:
            BadSetting: not with these options.
        """

    @abstractmethod
    def told(self, line: Mapping[str, Any]) -> list[Told]:
        """What a line of its output, a JSON object, adds to the conversation; nothing for one that is not known."""

    def files(self, setting: Setting) -> Iterable[LaunchFile]:
        """Its own files."""
        del setting
        return ()

    def env(self, setting: Setting) -> Mapping[str, str]:
        """Its own variables."""
        del setting
        return {}

    def launch(self, setting: Setting) -> Launch:
        setting.check_options({"program", "args", *self.known_options})
        source = '. "$REGROW_AGENT_FOLDER/tell.sh"\n'
        name, how = shlex.quote(self.words(setting, "program", self.program)[0]), shlex.quote(self.how)
        return spooled(
            setting,
            f'{source}{self.turn(setting)}take "$1" "$2"\n',
            begin=f"({source}begin {name} {how}) || exit\n",
            files=[
                setting.file("tell.sh", script("tell.sh")),
                setting.file("curl.conf", CURL.format(token=setting.token, session=setting.session)),
                *self.files(setting),
            ],
            env=self.env(setting),
        )

    def command(self, setting: Setting, *args: str) -> str:
        """The program with arguments as words of `sh`, the user's own behind them."""
        return shlex.join([*self.words(setting, "program", self.program), *args, *self.words(setting, "args")])

    def words(self, setting: Setting, option: str, usual: str = "") -> list[str]:
        """An option that holds words as `sh` reads them. Raises BadSetting."""
        try:
            return shlex.split(setting.options.get(option, "")) or [usual] * bool(usual)
        except ValueError as error:
            raise BadSetting(f"{option} of the agent {setting.name!r} are no words for a shell: {error}") from error


# Reading what programs say, whatever it is ----------------------------------------------------------------------------


def mapping(value: Any) -> Mapping[str, Any]:
    """The value itself, if it is an object."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def count(value: Any) -> int:
    """A number of tokens."""
    return max(int(value), 0) if isinstance(value, int | float) else 0


def said(text: Any) -> list[Told]:
    """What the model said."""
    return [Told("text", {"text": text}, f"{text}\n")] if isinstance(text, str) and text.strip() else []


def used(usage: Usage) -> list[Told]:
    """What a turn has used."""
    return [Told("usage", usage)] if usage.input or usage.output or usage.cost else []


def noted(what: str, *words: Any) -> Told:
    """Whatever else; words that are no strings are told as JSON."""
    told = (word if isinstance(word, str) else messages.encode(word).decode() for word in words if word)
    text = " ".join(told)[:SHOWN]
    return Told("note", {what: text}, f"[{what}] {text}\n")
