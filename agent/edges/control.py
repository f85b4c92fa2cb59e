"""The local API: HTTP/1.1 on a unix socket, for the daemon's own user and root only.

`GET /v1/status` · `GET /v1/proofs?limit=N` · `POST /v1/{drain,pause,resume,reload}`. The verbs answer when they are
accepted, not when done. `pause` and `resume` take a JSON body that says more (`core.orders`), or none.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, json_response

from agent.core.challenges import ProofStory
from agent.core.errors import AgentError, ConfigError
from agent.core.orders import PauseOrder, ResumeOrder
from agent.core.status import Status
from agent.core.wire import encode
from agent.edges.serving import Answer, HttpServer, Routes, routed

MAX_LISTED = 1000
"""Challenges and judgements in one answer: at most 2 MB."""
_SUN_PATH_BYTES = 108
"""unix(7): the address, with its closing zero."""


class ControlApi(Protocol):
    """What the daemon does on an owner's word. A refusal is an AgentError."""

    def status(self) -> Status: ...
    async def proofs(self, limit: int) -> ProofStory: ...
    async def drain(self) -> None: ...
    async def pause(self, order: PauseOrder) -> None: ...
    async def resume(self, order: ResumeOrder) -> None: ...
    async def reload(self) -> None: ...


class ControlError(AgentError):
    """The local socket cannot be served."""


class ControlServer:
    """Serves a ControlApi until closed. One daemon a socket: the lock beside it outlives no process."""

    def __init__(self, path: Path, api: ControlApi) -> None:
        self._path = path
        self._lock: int | None = None
        self._listener: socket.socket | None = None
        self._server = HttpServer(_guarded(_routes(api)))

    async def start(self) -> None:
        """Raises ControlError when another daemon serves this socket or the place is unusable."""
        self._lock = _own(self._path)
        try:
            self._listener = _listen(self._path)
            await self._server.start_on(self._listener)
        except BaseException:  # whatever stopped us, the lock must not outlive the attempt
            await self.close()
            raise

    async def close(self) -> None:
        """Stop serving, remove the socket, give up the lock. Idempotent."""
        await self._server.close()
        if self._listener is not None:
            self._path.unlink(missing_ok=True)
            self._listener.close()
            self._listener = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _own(path: Path) -> int:
    """Take the lock beside `path`; the kernel drops it with the process, so a crash leaves no stale lock."""
    if len(os.fsencode(path)) >= _SUN_PATH_BYTES:
        raise ControlError(
            f"the control socket's path is longer than {_SUN_PATH_BYTES - 1} bytes: {path}",
            remedy="Set control.socket to a shorter path",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as fault:
        raise _unusable(path, fault) from fault
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        os.close(lock)
        if fault.errno == errno.EWOULDBLOCK:
            raise ControlError(
                f"gpu-agent is already running and serves {path}",
                remedy="Stop it first, or give this one its own control.socket and node.state_dir",
            ) from fault
        raise _unusable(path, fault) from fault
    return lock


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        path.chmod(0o600)
    except OSError as fault:
        listener.close()
        raise _unusable(path, fault) from fault
    except ControlError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """We hold the lock, so a socket that is still there belongs to a dead daemon; anything else is not ours."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"{path} is in the way and is no socket", remedy="Move it, or set control.socket")
    path.unlink()


def _unusable(path: Path, fault: OSError) -> ControlError:
    return ControlError(
        f"cannot serve the control socket {path}: {fault.strerror}",
        remedy=f"Make {path.parent} writable for this user, or set control.socket",
    )


_Order = TypeVar("_Order", PauseOrder, ResumeOrder)


def _guarded(routes: Routes) -> Answer:
    """Only our own user and root; the file's mode says the same, but modes get changed by hand."""

    async def answer(request: BaseRequest) -> Response:
        if _peer_uid(request) not in (0, os.geteuid()):
            return _problem(403, "only the daemon's own user and root may speak to it", "Use sudo")
        try:
            return await routed(routes, request)
        except msgspec.DecodeError as fault:
            return _problem(400, f"the body cannot be read: {fault}", "Give what the verb takes, as JSON; or no body")
        except ConfigError as refusal:
            return _problem(409, "\n".join([refusal.message, *refusal.faults]), refusal.remedy)
        except AgentError as refusal:
            return _problem(409, refusal.message, refusal.remedy)

    return answer


def _peer_uid(request: BaseRequest) -> int | None:
    transport = request.transport
    peer = transport.get_extra_info("socket") if transport is not None else None
    if peer is None:
        return None
    _pid, uid, _gid = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def _problem(status: int, message: str, remedy: str) -> Response:
    return json_response({"error": message, "remedy": remedy}, status=status)


def _routes(api: ControlApi) -> Routes:
    async def show(_: BaseRequest) -> Response:
        return Response(body=encode(api.status()), content_type="application/json")

    async def prove(request: BaseRequest) -> Response:
        asked = request.query.get("limit", "")
        limit = min(int(asked), MAX_LISTED) if asked.isdecimal() and asked.isascii() else MAX_LISTED
        return Response(body=encode(await api.proofs(limit)), content_type="application/json")

    def verb(act: Callable[[], Awaitable[None]]) -> Answer:
        async def answer(_: BaseRequest) -> Response:
            await act()
            return json_response({"ok": True}, status=202)

        return answer

    def told(order: type[_Order], act: Callable[[_Order], Awaitable[None]]) -> Answer:
        async def answer(request: BaseRequest) -> Response:
            await act(msgspec.json.decode(await request.read() or b"{}", type=order))
            return json_response({"ok": True}, status=202)

        return answer

    gets = {"status": show, "proofs": prove}
    posts = {
        "drain": verb(api.drain),
        "pause": told(PauseOrder, api.pause),
        "resume": told(ResumeOrder, api.resume),
        "reload": verb(api.reload),
    }
    shown = {f"/v1/{name}": {"GET": get} for name, get in gets.items()}
    return shown | {f"/v1/{name}": {"POST": act} for name, act in posts.items()}
