"""`gpu-agent bundle`: pack a program and sign it as its publisher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from agent.edges.signing import KeyPair


@click.command(short_help="Pack a directory as a program and sign it.")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write."
)
@click.option(
    "--key",
    "key_file",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the publisher's key.",
)
@click.option("--new-key", is_flag=True, help="Make the key first; an existing file is never replaced.")
def command(directory: Path, output: Path, key_file: Path, new_key: bool) -> None:
    """Pack all that DIRECTORY holds, and sign it with an Ed25519 key.

    \b
        gpu-agent bundle docs/examples/mandelbrot -o frames.bundle --key publisher.key --new-key

    Writes two files: the bundle, a plain tar, and the signature beside it (OUTPUT.json), which `gpu-agent submit` sends
    along. Owners name the public key in `exec.trusted_keys`.
    """
    import msgspec

    from agent.edges.programs.bundling import BundleError, bundle

    mine = keys(key_file, new_key=new_key)
    try:
        with output.open("w+b") as file:
            made = bundle(directory, file, mine)
        signature_of(output).write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
    except OSError as error:
        raise BundleError(f"{error.filename or output} cannot be read or written: {error.strerror}") from error
    click.echo(f"bundle     {output} ({made.bytes} bytes)")
    click.echo(f"sha256     {made.sha256}")
    click.echo(f"publisher  {made.publisher}")


def signature_of(bundle_file: Path) -> Path:
    """Where the signature of a bundle lies."""
    return bundle_file.with_name(f"{bundle_file.name}.json")


def keys(path: Path, *, new_key: bool) -> KeyPair:
    """A publisher's key, made first where that is asked for. Raises IdentityError."""
    from agent.core.errors import IdentityError
    from agent.edges.signing import KeyPair

    try:
        if new_key:
            made = KeyPair.generate()
            made.save(path)
            return made
        return KeyPair.load(path)
    except FileExistsError as error:
        raise IdentityError(f"{path} is there already", remedy="Leave --new-key out to use it") from error
    except FileNotFoundError as error:
        raise IdentityError(f"{path} does not exist", remedy="--new-key makes it") from error
    except (OSError, ValueError) as error:
        raise IdentityError(f"{path} holds no usable key: {error}") from error
