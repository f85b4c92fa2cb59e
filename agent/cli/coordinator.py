"""`gpu-agent coordinator`: the embedded reference coordinator as a process of its own."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Run the embedded reference coordinator.")
@click.option("--state-dir", required=True, type=click.Path(file_okay=False, path_type=Path), help="All its memory.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Anything but loopback needs TLS.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="0 takes any that is free.")
@click.option("--tls-cert", type=click.Path(dir_okay=False, path_type=Path), help="PEM chain.")
@click.option("--tls-key", type=click.Path(dir_okay=False, path_type=Path), help="PEM key.")
@click.option("--token-file", type=click.Path(dir_okay=False, path_type=Path), help="Write a new enrolment token here.")
@click.option("--lease-s", default=40.0, show_default=True, type=click.FloatRange(3.0, 3600.0))
@click.option("--beat-s", default=10.0, show_default=True, type=click.FloatRange(0.2, 600.0))
@click.option("--unstarted-s", default=10.0, show_default=True, type=click.FloatRange(0.5, 600.0))
def command(
    state_dir: Path,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    token_file: Path | None,
    lease_s: float,
    beat_s: float,
    unstarted_s: float,
) -> None:
    """Serve tasks to nodes and results to requesters until SIGTERM or Ctrl-C."""
    from agent.devnet.coordinator import Options
    from agent.devnet.core.rules import Rules
    from agent.devnet.process import Serving, serve

    rules = Rules(lease_s=lease_s, beat_s=beat_s, unstarted_s=unstarted_s)
    options = Options(rules=rules, tls_cert=tls_cert, tls_key=tls_key)
    serving = Serving(state_dir=state_dir, host=host, port=port, token_file=token_file, options=options)
    serve(serving, click.echo)
