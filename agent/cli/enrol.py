"""`gpu-agent enrol`: join a coordinator with a one-time token."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from agent.cli.options import with_config
from agent.core.errors import ConfigError, IdentityError

_MAX_TOKEN_CHARACTERS = 4096


@click.command(short_help="Join a coordinator with a one-time token.")
@click.option("--url", help="The coordinator, when not coordinator.url.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="File with the token, or - for standard input; coordinator.enrol_token_file when not given.",
)
@with_config
def command(url: str | None, token_file: Path | None, config: object) -> None:
    """Trade a one-time token for a node id, and remember the coordinator's key.

    \b
        gpu-agent enrol --url https://coordinator.example --token-file node.token

    The token is never an argument: other users could read it in the process list. An agent with
    coordinator.enrol_token_file does this by itself on its first start.
    """
    import asyncio

    from agent.config import Config
    from agent.edges.enrolment import enrol
    from agent.edges.identity import open_key

    assert isinstance(config, Config)
    address = url or config.coordinator.url
    if not address:
        raise ConfigError(["coordinator.url is not set: name it there or with --url"])
    enrolment = asyncio.run(
        enrol(
            address,
            _token(token_file or config.coordinator.enrol_token_file or Path("-")),
            keys=open_key(config.node.state_dir, config.identity.key_file),
            state_dir=config.node.state_dir,
            name=config.node.name or "",
            ca_file=config.coordinator.ca_file,
        )
    )
    click.echo(f"Enrolled as {enrolment.node_id} with {address} (key {enrolment.coordinator_key[:16]}…)")


def _token(file: Path) -> str:
    if str(file) == "-" and sys.stdin.isatty():
        answer: str = click.prompt("Enrolment token", hide_input=True)
        return answer
    try:
        with click.open_file(str(file), "r", encoding="utf-8") as stream:
            text: str = stream.read(_MAX_TOKEN_CHARACTERS)
    except (OSError, UnicodeDecodeError) as error:
        raise IdentityError(f"the token file {file} cannot be read: {error}") from error
    return text
