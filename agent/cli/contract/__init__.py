"""The protocol as documents for other people's tools: JSON Schema, OpenAPI and AsyncAPI, made from the structs."""

from __future__ import annotations

import json
from typing import Any

from agent.cli.contract.asyncapi import asyncapi
from agent.cli.contract.messages import json_schema
from agent.cli.contract.openapi import openapi

Document = dict[str, Any]


def documents() -> dict[str, str]:
    """File name → text. The same code gives the same bytes."""
    made = {"messages.json": json_schema(), "openapi.json": openapi(), "asyncapi.json": asyncapi()}
    return {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in made.items()}
