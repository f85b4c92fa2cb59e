"""How names, digests, keys and devices are spelled."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}\Z"
DEVICE_PATTERN = r"^(auto|cpu|MIG-[0-9A-Fa-f/-]{1,80}|GPU-[0-9A-Fa-f/-]{1,80}(\+GPU-[0-9A-Fa-f/-]{1,80}){0,15})\Z"

KEY_PATTERN = r"^[0-9a-f]{64}\Z"
EXEC_DEVICE_PATTERN = r"^(cpu|(GPU|MIG)-[0-9A-Fa-f/-]{1,80})\Z"

Name = Annotated[
    str, Meta(pattern=NAME_PATTERN, description="letters, digits, dots, dashes and underscores, at most 63")
]
Digest = Annotated[str, Meta(pattern=DIGEST_PATTERN, description="sha256: and 64 lower-case hex digits")]
PublicKey = Annotated[str, Meta(pattern=KEY_PATTERN, description="an Ed25519 public key, 64 lower-case hex digits")]
ExecDevice = Annotated[str, Meta(pattern=EXEC_DEVICE_PATTERN, description='"cpu" or a GPU UUID (`gpu-agent gpus`)')]
Device = Annotated[
    str, Meta(pattern=DEVICE_PATTERN, description='"cpu", "auto", a GPU UUID, or several with + between')
]
