"""Refusal codes and HTTP statuses, one table for both sides of the wire. Pure."""

from __future__ import annotations

from typing import Final

from agent.core.wire import RefusalCode

STATUS_OF: Final[dict[RefusalCode, int]] = {
    RefusalCode.BAD_MESSAGE: 400,
    RefusalCode.BAD_TOKEN: 401,
    RefusalCode.BAD_SIGNATURE: 401,
    RefusalCode.SESSION_EXPIRED: 401,
    RefusalCode.UNKNOWN_NODE: 401,
    RefusalCode.FORBIDDEN: 403,
    RefusalCode.NOT_FOUND: 404,
    RefusalCode.REPLAYED: 409,
    RefusalCode.TOO_LARGE: 413,
    RefusalCode.UNSUPPORTED_VERSION: 426,
    RefusalCode.INTERNAL: 500,
    RefusalCode.BUSY: 503,
}

_CODE_OF: Final[dict[int, RefusalCode]] = {
    408: RefusalCode.BUSY,
    413: RefusalCode.TOO_LARGE,
    429: RefusalCode.BUSY,
    500: RefusalCode.INTERNAL,
    502: RefusalCode.BUSY,
    503: RefusalCode.BUSY,
    504: RefusalCode.BUSY,
}


def status_of(code: RefusalCode) -> int:
    """The HTTP status that carries `code`."""
    return STATUS_OF[code]


def code_of(status: int) -> RefusalCode | None:
    """What a bare status means when something between the two sides answered without a refusal in the body.

    None where only the coordinator itself may say so: a proxy's 401 or 404 is no word about our session.
    """
    return _CODE_OF.get(status)


def retry_after_s(header: str | None, *, limit_s: float = 3600.0) -> float | None:
    """Seconds of a `Retry-After` header, capped at `limit_s`; None when absent, a date or nonsense.

    A date (the header's other form, RFC 9110 §10.2.3) would need a wall clock that the two sides need not share.
    """
    text = (header or "").strip()
    if not (text.isascii() and text.isdigit()):
        return None
    return min(float(text), limit_s)
