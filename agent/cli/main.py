"""The `gpu-agent` command: one module a verb, imported only when that verb runs."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from agent import __version__

if TYPE_CHECKING:
    from agent.core.errors import AgentError

INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
MAX_LINE_CHARACTERS = 2000
"""A message of a stranger may be long; the log has all of it."""


class Verb(NamedTuple):
    """A verb: the module that exposes it as `command`, and its line in `--help`."""

    module: str
    summary: str


VERBS = {
    "run": Verb("agent.cli.run", "Run the node: probe, advertise, pull, execute, prove, report."),
    "demo": Verb("agent.cli.demo", "Show the whole path on this machine with a real model."),
    "coordinator": Verb("agent.cli.coordinator", "Run the embedded reference coordinator."),
    "ask": Verb("agent.cli.ask", "Ask a model on some node, and see the answer as it comes."),
    "bundle": Verb("agent.cli.bundle", "Pack a directory as a program and sign it."),
    "submit": Verb("agent.cli.submit", "Have a program run, follow it, and fetch what it leaves."),
    "enrol": Verb("agent.cli.enrol", "Join a coordinator with a one-time token."),
    "status": Verb("agent.cli.status", "What the running node does now, and why."),
    "drain": Verb("agent.cli.drain", "Finish what runs and take no new task; the daemon stays."),
    "pause": Verb("agent.cli.pause", "Take no new task until `resume`."),
    "resume": Verb("agent.cli.resume", "Take tasks again after `pause` or `drain`."),
    "tasks": Verb("agent.cli.tasks", "Tasks that this node has done."),
    "proofs": Verb("agent.cli.proofs", "What was challenged, and how it was judged."),
    "gpus": Verb("agent.cli.gpus", "GPUs of this machine as the agent sees them."),
    "power": Verb("agent.cli.power", "Hold GPUs to the owner's power limit, or give it back; for root."),
    "doctor": Verb("agent.cli.doctor", "Check everything that the node needs, with remedies."),
    "receipt": Verb("agent.cli.receipt", "Write the receipt of one task, to keep or to verify."),
    "verify": Verb("agent.cli.verify", "Check a task offline: its receipt, its draws, its model."),
    "calibrate": Verb("agent.cli.calibrate", "Measure the noise of honest work on a model, for verifiers."),
    "posp": Verb("agent.cli.posp", "How often results must be challenged, and why."),
    "config": Verb("agent.cli.config", "Write, check and show the configuration."),
    "schema": Verb("agent.cli.schema", "Write or check the protocol's schemas."),
    "version": Verb("agent.cli.version", "Versions of the agent and of what it runs on."),
}


class LazyVerbs(click.Group):
    """Lists verbs from the table, so that `--help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's interface)
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(VERBS[cmd_name].module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail(f"no verb {args[0]!r}{_near(args[0])}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])


@click.group(cls=LazyVerbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="gpu-agent", message="%(prog)s %(version)s")
def command() -> None:
    """Provider-side GPU node agent."""


def run(arguments: Sequence[str], command: click.Command = command) -> int:
    """Run one command line; returns the exit status. Expected failures become one clean line on stderr."""
    from agent.core.errors import AgentError

    try:
        status = command.main(list(arguments), prog_name="gpu-agent", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except AgentError as error:
        tell(error)
        return error.exit_code
    return status if isinstance(status, int) else 0


def tell(error: AgentError) -> None:
    """Say what failed and what to do. Peers may have put control characters into the text: they do not get out."""
    from agent.core.errors import ConfigError

    click.echo(click.style("error: ", fg="red", bold=True) + _line(error.message), err=True)
    for fault in error.faults if isinstance(error, ConfigError) else ():
        click.echo(f"  {_line(fault)}", err=True)
    if error.remedy:
        click.echo(f"  → {_line(error.remedy)}", err=True)


def _line(text: str) -> str:
    from agent.core.text import plain

    return " ".join(plain(text, MAX_LINE_CHARACTERS).split("\n"))


def _near(word: str) -> str:
    from difflib import get_close_matches

    found = get_close_matches(word, VERBS, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; verbs: {', '.join(VERBS)}"
