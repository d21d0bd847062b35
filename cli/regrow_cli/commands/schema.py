"""`regrow schema`: the wire protocol as JSON Schema or AsyncAPI."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("schema")(schema)


def schema(
    asyncapi: Annotated[bool, typer.Option("--asyncapi", help="An AsyncAPI 3 document instead.")] = False,
) -> None:
    """Print the JSON Schemas of all messages and records, made from the types that the code uses.

    \b
    regrow schema > schema.json
    regrow schema --asyncapi > asyncapi.json
    """
    from regrow_protocol.schema import asyncapi as document
    from regrow_protocol.schema import json_schemas

    print(json.dumps(document() if asyncapi else json_schemas(), indent=2, ensure_ascii=False))
