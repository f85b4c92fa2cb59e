"""Join the network once: use the configured one-time token where nothing was settled yet."""

from __future__ import annotations

import random

import structlog

from agent.config import Config
from agent.core.backoff import after_failure
from agent.core.errors import IdentityError, LinkError, LinkFault
from agent.core.text import cause
from agent.edges.enrolment import enrol
from agent.edges.identity import Enrolment, NodeIdentity, open_identity, open_key, read_enrolment
from agent.ports import Clock

_log = structlog.get_logger("identity")


async def join(config: Config, name: str, clock: Clock, rng: random.Random) -> NodeIdentity:
    """This node's identity. Raises IdentityError, StorageError, and LinkError when the coordinator refuses to enrol it.

    A coordinator that is not up yet is waited for: both machines may have booted a moment ago.
    """
    state_dir, key_file = config.node.state_dir, config.identity.key_file
    failures = 0
    while read_enrolment(state_dir) is None and config.coordinator.enrol_token_file is not None:
        try:
            done = await _enrol(config, name)
            _log.info("node.enrolled", node=done.node_id, coordinator=done.url)
        except LinkError as error:
            if error.fault is not LinkFault.UNREACHABLE:
                raise
            _log.warning("enrol.failed", detail=str(error))
            await clock.sleep(after_failure(failures, rng.random(), error.retry_after_s))
            failures += 1
    return open_identity(state_dir, key_file)


async def _enrol(config: Config, name: str) -> Enrolment:
    settings, state_dir = config.coordinator, config.node.state_dir
    if settings.url is None or settings.enrol_token_file is None:
        raise IdentityError("coordinator.url is not set", remedy="Set it, or run `gpu-agent enrol`")
    try:
        token = settings.enrol_token_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise IdentityError(
            f"the enrolment token {settings.enrol_token_file} cannot be read: {cause(error)}",
            remedy="Ask your coordinator for a token and write it there",
        ) from error
    keys = open_key(state_dir, config.identity.key_file)
    return await enrol(settings.url, token, keys=keys, state_dir=state_dir, name=name, ca_file=settings.ca_file)
