"""The `gpu-agent` command: one module a verb, imported only when that verb runs."""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from agent import __version__

if TYPE_CHECKING:
    from agent.core.errors import AgentError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
UNWRITTEN = 74
"""EX_IOERR of sysexits(3)."""
INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
MAX_LINE_CHARACTERS = 2000
"""A message of a stranger may be long; the log has all of it."""


class Verb(NamedTuple):
    """A verb: the module that exposes it as `command`, and its line in `--help`."""

    module: str
    summary: str


GROUPS = {
    "See it work": {
        "demo": Verb("agent.cli.demo", "Show the whole path on this machine with a real model."),
    },
    "Run a node": {
        "enrol": Verb("agent.cli.enrol", "Join a coordinator with a one-time token."),
        "run": Verb("agent.cli.run", "Run the node: probe, advertise, pull, execute, prove, report."),
        "status": Verb("agent.cli.status", "What the running node does now, and why."),
        "pause": Verb("agent.cli.pause", "Take no new task until `resume`."),
        "drain": Verb("agent.cli.drain", "Finish what runs and take no new task; the daemon stays."),
        "resume": Verb("agent.cli.resume", "Take tasks again after `pause` or `drain`."),
        "tasks": Verb("agent.cli.tasks", "Tasks that this node has done."),
        "proofs": Verb("agent.cli.proofs", "What was challenged, and how it was judged."),
        "receipt": Verb("agent.cli.receipt", "Write the receipt of one task, to keep or to verify."),
        "gpus": Verb("agent.cli.gpus", "GPUs of this machine as the agent sees them."),
        "doctor": Verb("agent.cli.doctor", "Check everything that the node needs, with remedies."),
        "config": Verb("agent.cli.config", "Write, check and show the configuration."),
        "power": Verb("agent.cli.power", "As root: hold GPUs to the owner's power limit, or end it."),
        "version": Verb("agent.cli.version", "Versions of the agent and of what it runs on."),
    },
    "Ask for work, and check what came": {
        "ask": Verb("agent.cli.ask", "Ask a model on some node, and see the answer as it comes."),
        "bundle": Verb("agent.cli.bundle", "Pack a directory as a program and sign it."),
        "submit": Verb("agent.cli.submit", "Have a program run, follow it, and fetch what it leaves."),
        "verify": Verb("agent.cli.verify", "Check a task offline: its receipt, its draws, its model."),
    },
    "Run a network": {
        "coordinator": Verb("agent.cli.coordinator", "Run the embedded reference coordinator."),
        "posp": Verb("agent.cli.posp", "How often results must be challenged, and why."),
        "calibrate": Verb("agent.cli.calibrate", "Measure the noise of honest work, for verifiers."),
        "schema": Verb("agent.cli.schema", "Write or check the protocol's schemas."),
    },
}
VERBS = {name: verb for group in GROUPS.values() for name, verb in group.items()}


class LazyVerbs(click.Group):
    """Lists verbs from the table, so that `--help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's interface)
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(VERBS[cmd_name].module).command
        for option in command.params:
            if option.type.name in _NUMBERS:
                option.type.name = "number"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail(f"no verb {args[0]!r}{_near(args[0])}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(map(len, VERBS))
        for title, verbs in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), verb.summary) for name, verb in verbs.items()])


_NUMBERS = {"integer", "float", "integer range", "float range"}
"""click's words for what everybody calls a number."""


@click.group(
    cls=LazyVerbs,
    subcommand_metavar="VERB …",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="gpu-agent", message="%(prog)s %(version)s")
def command() -> None:
    """The node agent of a GPU network: idle GPUs earn, and whoever pays can check what was computed.

    New here? `gpu-agent demo` shows all of it on this machine. `gpu-agent VERB --help` has the details.
    """


def run(arguments: Sequence[str], command: click.Command = command) -> int:
    """Run one command line; returns the exit status. Expected failures become one clean line on stderr."""
    from agent.core.errors import AgentError

    try:
        status = command.main(list(arguments), prog_name="gpu-agent", standalone_mode=False, color=_color())
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        _tell(_sentence(error.format_message()), remedy=f"{context.command_path} --help" if context else "")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except AgentError as error:
        tell(error)
        return error.exit_code
    except OSError as error:
        if error.errno not in _FULL:
            raise
        return _unwritten(error)
    return status if isinstance(status, int) else 0


def tell(error: AgentError) -> None:
    """Say what failed and what to do. Peers may have put control characters into the text: they do not get out."""
    from agent.core.errors import ConfigError

    _tell(error.message, error.faults if isinstance(error, ConfigError) else (), error.remedy)


def _tell(message: str, faults: Sequence[str] = (), remedy: str = "") -> None:
    click.echo(click.style("error: ", fg="red", bold=True) + _line(message), err=True, color=_color())
    for fault in faults:
        click.echo(f"  {_line(fault)}", err=True)
    if remedy:
        click.echo(f"  → {_line(remedy)}", err=True)


def _unwritten(error: OSError) -> int:
    """Where the output goes there is no room. What is buffered of it goes nowhere, or Python tells of it as it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    _tell(f"{error.filename or 'the output'} cannot be written: {error.strerror}")
    return UNWRITTEN


def _sentence(message: str) -> str:
    """click begins and ends its messages as sentences; ours follow a colon."""
    words = " ".join(message.split()).removesuffix(".")
    return words if words[1:2].isupper() else words[:1].lower() + words[1:]


def _color() -> bool | None:
    """None: wherever there is a terminal (https://no-color.org)."""
    return False if os.environ.get("NO_COLOR") else None


def _line(text: str) -> str:
    from agent.core.text import plain

    return " ".join(plain(text, MAX_LINE_CHARACTERS).split("\n"))


def _near(word: str) -> str:
    from difflib import get_close_matches

    found = get_close_matches(word, VERBS, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; verbs: {', '.join(VERBS)}"
