"""Where the coordinator is and how its connection is protected: TLS with a checked name, or loopback."""

from __future__ import annotations

import ssl
from pathlib import Path

from yarl import URL

from agent.core.errors import LinkError, LinkFault
from agent.core.loopback import is_loopback

_HTTP_OF = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def client_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or later; chain and host name are checked against `ca_file`, or the system's CAs when None.

    Raises LinkError(INSECURE) when `ca_file` holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is an OSError
        raise LinkError(
            LinkFault.INSECURE,
            f"no CA certificate could be read from {ca_file}: {error}",
            remedy="Point coordinator.ca_file at a PEM file with the coordinator's CA",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Endpoint:
    """The coordinator's base URL, proven safe to talk to before a byte is sent."""

    def __init__(self, url: str) -> None:
        """Raises LinkError(INSECURE) when the URL is unusable, or plain text beyond this machine."""
        self._base = _parse(url)
        self.secure = self._base.scheme == "https"
        self.name = str(self._base.origin())
        if not self.secure and not is_loopback(self._base.host or ""):
            raise LinkError(
                LinkFault.INSECURE,
                f"plain text to {self.name} would show tasks and tokens to everybody on the way",
                remedy="Use https://; plain http:// is only for a coordinator on this machine",
            )

    def url(self, *path: str) -> URL:
        """The HTTP address of a route, such as `url("v1", "beat")`."""
        return self._base.joinpath(*path)

    def stream_url(self) -> URL:
        """The WebSocket address."""
        return self.url("v1", "link").with_scheme("wss" if self.secure else "ws")


def _parse(url: str) -> URL:
    try:
        parsed = URL(url)
        scheme, host = _HTTP_OF.get(parsed.scheme), parsed.host
    except ValueError:
        scheme, host = None, None
        parsed = URL()
    if scheme is None or not host or parsed.user or parsed.password or parsed.query_string or parsed.fragment:
        raise LinkError(
            LinkFault.INSECURE,
            f"{url!r} is no address of a coordinator",
            remedy="Write coordinator.url as https://host[:port][/path], without user, query or fragment",
        )
    return parsed.with_scheme(scheme)
