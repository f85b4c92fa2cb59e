"""Turns what went wrong below into the one LinkError that says so. Nobody above looks at aiohttp."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from agent.core import wire
from agent.core.errors import LinkError, LinkFault
from agent.core.text import cause, plain
from agent.edges.link.tls import Endpoint

NETWORK_REMEDY = "Check coordinator.url, the network and that the coordinator runs"
TLS_REMEDY = "Check that coordinator.url names the coordinator, and that coordinator.ca_file is its CA"
MAX_DETAIL = 300
"""Characters kept of a stranger's words."""
PEER_REMEDY = "Check that coordinator.url is a coordinator of a version that this agent speaks"


_REMEDIES = {
    wire.RefusalCode.BAD_TOKEN: "Ask the coordinator's operator for a new token",
    wire.RefusalCode.UNKNOWN_NODE: "Enrol this node with that coordinator: `gpu-agent enrol` with a new token",
    wire.RefusalCode.BAD_SIGNATURE: "The coordinator knows another key of this node: restore node.key, or enrol again",
    wire.RefusalCode.FORBIDDEN: "Ask those who run the coordinator why this node is shut out",
    wire.RefusalCode.UNSUPPORTED_VERSION: "Update gpu-agent to a version that this coordinator speaks",
}
"""What the owner can do about a refusal that trying again does not mend."""


@contextmanager
def classified(endpoint: Endpoint, what: str) -> Iterator[None]:
    """Raise every failure of the network inside as a LinkError, its cause kept."""
    try:
        yield
    except (aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError) as error:
        raise LinkError(LinkFault.INSECURE, f"TLS with {endpoint.name} failed: {error}", remedy=TLS_REMEDY) from error
    except aiohttp.WSServerHandshakeError as error:
        raise broken(endpoint, f"it answers a WebSocket with HTTP {error.status}") from error
    except (aiohttp.ClientResponseError, aiohttp.InvalidURL) as error:
        raise broken(endpoint, plain(str(error), MAX_DETAIL)) from error
    except TimeoutError as error:
        raise unreachable(f"{endpoint.name} did not answer in time ({what})") from error
    except (aiohttp.ClientError, OSError) as error:
        detail = plain(cause(error), MAX_DETAIL)
        raise unreachable(f"the connection to {endpoint.name} failed ({what}): {detail}") from error


def unreachable(message: str) -> LinkError:
    """No connection, or it broke."""
    return LinkError(LinkFault.UNREACHABLE, message, remedy=NETWORK_REMEDY)


def broken(endpoint: Endpoint, what: str) -> LinkError:
    """The peer does not speak the protocol."""
    return LinkError(LinkFault.BROKEN, f"{endpoint.name} does not speak this protocol: {what}", remedy=PEER_REMEDY)


def closed() -> LinkError:
    """Our side closed the link."""
    return LinkError(LinkFault.CLOSED, "the link to the coordinator is closed")


def refused(refusal: wire.Refusal, *, header_retry_s: float | None = None) -> LinkError:
    """The coordinator's own no. Its message is a stranger's text, so it is made plain."""
    wait_s = refusal.retry_after_s if refusal.retry_after_s is not None else header_retry_s
    message = f"the coordinator refused: {plain(refusal.message, MAX_DETAIL) or refusal.code.value}"
    remedy = _REMEDIES.get(refusal.code, "")
    return LinkError(LinkFault.REFUSED, message, code=refusal.code, retry_after_s=wait_s, remedy=remedy)


def too_large(size_bytes: int, limit_bytes: int) -> LinkError:
    """Found before it was sent."""
    refusal = wire.Refusal(code=wire.RefusalCode.TOO_LARGE, message=f"{size_bytes} bytes, at most {limit_bytes}")
    return refused(refusal)
