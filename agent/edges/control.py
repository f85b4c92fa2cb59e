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
from aiohttp import web

from agent.core.challenges import ProofStory
from agent.core.errors import AgentError, ConfigError
from agent.core.orders import PauseOrder, ResumeOrder
from agent.core.status import Status
from agent.core.wire import encode

_MAX_BODY_BYTES = 4096
_SHUTDOWN_S = 2.0
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
        self._api = api
        self._lock: int | None = None
        self._listener: socket.socket | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises ControlError when another daemon serves this socket or the place is unusable."""
        self._lock = _own(self._path)
        try:
            self._listener = _listen(self._path)
            app = web.Application(middlewares=[_guard], client_max_size=_MAX_BODY_BYTES)
            app.add_routes(_routes(self._api))
            self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
            await self._runner.setup()
            await web.SockSite(self._runner, self._listener).start()
        except BaseException:  # whatever stopped us, the lock must not outlive the attempt
            await self.close()
            raise

    async def close(self) -> None:
        """Stop serving, remove the socket, give up the lock. Idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
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


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Order = TypeVar("_Order", PauseOrder, ResumeOrder)


@web.middleware
async def _guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Only our own user and root; the file's mode says the same, but modes get changed by hand."""
    uid = _peer_uid(request)
    if uid not in (0, os.geteuid()):
        return _problem(403, "only the daemon's own user and root may speak to it", "Use sudo")
    try:
        return await handler(request)
    except msgspec.DecodeError as fault:
        return _problem(400, f"the body cannot be read: {fault}", "Give what the verb takes, as JSON; or no body")
    except ConfigError as refusal:
        return _problem(409, "\n".join([refusal.message, *refusal.faults]), refusal.remedy)
    except AgentError as refusal:
        return _problem(409, refusal.message, refusal.remedy)


def _peer_uid(request: web.Request) -> int | None:
    transport = request.transport
    peer = transport.get_extra_info("socket") if transport is not None else None
    if peer is None:
        return None
    _pid, uid, _gid = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def _problem(status: int, message: str, remedy: str) -> web.Response:
    return web.json_response({"error": message, "remedy": remedy}, status=status)


def _routes(api: ControlApi) -> list[web.RouteDef]:
    async def show(_: web.Request) -> web.StreamResponse:
        return web.Response(body=encode(api.status()), content_type="application/json")

    async def prove(request: web.Request) -> web.StreamResponse:
        asked = request.query.get("limit", "")
        limit = min(int(asked), MAX_LISTED) if asked.isdecimal() and asked.isascii() else MAX_LISTED
        return web.Response(body=encode(await api.proofs(limit)), content_type="application/json")

    def verb(act: Callable[[], Awaitable[None]]) -> _Handler:
        async def answer(_: web.Request) -> web.StreamResponse:
            await act()
            return web.json_response({"ok": True}, status=202)

        return answer

    def told(order: type[_Order], act: Callable[[_Order], Awaitable[None]]) -> _Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            await act(msgspec.json.decode(await request.read() or b"{}", type=order))
            return web.json_response({"ok": True}, status=202)

        return answer

    posts = {
        "drain": verb(api.drain),
        "pause": told(PauseOrder, api.pause),
        "resume": told(ResumeOrder, api.resume),
        "reload": verb(api.reload),
    }
    gets = {"status": show, "proofs": prove}
    shown = (web.get(f"/v1/{name}", get) for name, get in gets.items())
    return [*shown, *(web.post(f"/v1/{name}", act) for name, act in posts.items())]
