"""The command `schema`, which prints a JSON Schema of the settings."""

from __future__ import annotations

import json
from dataclasses import dataclass

from distributed_maddpg.cli.parsing import parse


@dataclass(frozen=True)
class SchemaCommand:
    """Print a JSON Schema of the settings, with which an editor checks and completes a TOML file.

    Write it beside the file, and name it in the file's first line: #:schema ./maddpg.schema.json

    Examples:
        distributed-maddpg schema
        distributed-maddpg schema > maddpg.schema.json
    """


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    parse(SchemaCommand, "schema", arguments)
    from distributed_maddpg.config.schema import settings_schema  # noqa: PLC0415 - loads pydantic

    print(json.dumps(settings_schema(), indent=2))
