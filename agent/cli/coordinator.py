"""`gpu-agent coordinator`: the embedded reference coordinator as a process of its own."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.options import FiniteRange


@click.command(short_help="Run the embedded reference coordinator.")
@click.option(
    "--state-dir",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The directory of all that it remembers.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Anything but loopback needs TLS.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="0 takes any that is free.")
@click.option("--tls-cert", type=click.Path(dir_okay=False, path_type=Path), help="PEM file of its certificate chain.")
@click.option("--tls-key", type=click.Path(dir_okay=False, path_type=Path), help="PEM file of the certificate's key.")
@click.option("--token-file", type=click.Path(dir_okay=False, path_type=Path), help="Write a new enrolment token here.")
@click.option(
    "--lease-s",
    default=40.0,
    show_default=True,
    type=FiniteRange(3.0, 3600.0),
    help="Seconds that a lease lasts without a beat of its node.",
)
@click.option(
    "--beat-s", default=10.0, show_default=True, type=FiniteRange(0.2, 600.0), help="Seconds from beat to beat."
)
@click.option(
    "--unstarted-s",
    default=10.0,
    show_default=True,
    type=FiniteRange(0.5, 600.0),
    help="Seconds in which a node must confirm an offer.",
)
@click.option(
    "--challenge-rate",
    type=FiniteRange(0.0, 1.0),
    help="Share of results that nodes must open; 0 none.  [default: what makes cheating not pay, see `gpu-agent posp`]",
)
@click.option(
    "--beacon",
    default="epoch",
    show_default=True,
    type=click.Choice(["epoch", "drand"]),
    help="Whose chance draws what is challenged.",
)
@click.option(
    "--epoch",
    "epoch_s",
    default=60.0,
    show_default=True,
    type=FiniteRange(1.0, 86400.0),
    help="Seconds until an epoch's secret is told, and its results are challenged.",
)
@click.option(
    "--answer-s",
    default=3600.0,
    show_default=True,
    type=FiniteRange(1.0, 604800.0),
    help="Seconds in which a node must open what is challenged.",
)
@click.option(
    "--verify-s",
    default=600.0,
    show_default=True,
    type=FiniteRange(1.0, 86400.0),
    help="Seconds that a validator has to check, and then to reveal its verdict.",
)
@click.option(
    "--validators",
    default=2,
    show_default=True,
    type=click.IntRange(0, 16),
    help="How many other nodes repeat what is drawn.",
)
@click.option(
    "--stake",
    default=10.0,
    show_default=True,
    type=FiniteRange(0.0, 1e6),
    help="What a new node has to lose (simulated).",
)
@click.option(
    "--attest-every-s",
    default=0.0,
    show_default=True,
    type=FiniteRange(0.0, 31536000.0),
    help="How often to have nodes show that their GPUs are GPUs; 0: never. Needs numpy (gpu-agent[attest]).",
)
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
    challenge_rate: float | None,
    beacon: str,
    epoch_s: float,
    answer_s: float,
    verify_s: float,
    validators: int,
    stake: float,
    attest_every_s: float,
) -> None:
    """Serve tasks to nodes and results to requesters until SIGTERM or Ctrl-C (docs/coordinator.md).

    \b
        gpu-agent coordinator --state-dir ~/coordinator --port 7400 --token-file node.token

    It prints its address, its public key, and how to ask it for work.
    """
    import msgspec

    from agent.core.payloads import BeaconSource
    from agent.devnet.coordinator import Options
    from agent.devnet.core.proofs.deterrence import SLASHES, deterring_rate
    from agent.devnet.core.rules import ProofRules, Rules
    from agent.devnet.process import Serving, serve
    from agent.edges.drand import load_bls
    from agent.edges.gpu.models import card_table

    proofs = ProofRules(
        beacon=BeaconSource(beacon),
        epoch_s=epoch_s,
        answer_s=answer_s,
        verify_s=verify_s,
        validators=validators,
        stake_micros=round(stake * 1e6),
        slash_micros=round(stake * 1e6 / SLASHES),
    )
    rules = Rules(lease_s=lease_s, beat_s=beat_s, unstarted_s=unstarted_s, proofs=proofs, attest_every_s=attest_every_s)
    rate = deterring_rate(rules) if challenge_rate is None else round(challenge_rate * 1e6)
    rules = msgspec.structs.replace(rules, proofs=msgspec.structs.replace(proofs, rate_micros=rate))
    bls = load_bls() if proofs.beacon is BeaconSource.DRAND else None
    options = Options(rules=rules, tls_cert=tls_cert, tls_key=tls_key, bls=bls, cards=card_table())
    serving = Serving(state_dir=state_dir, host=host, port=port, token_file=token_file, options=options)
    serve(serving, click.echo)
