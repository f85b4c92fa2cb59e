#!/usr/bin/python3 -I
"""A llama-server that is none: it serves like one until the trick that it was started with.

`--trick NAME --at PATH` does NAME when PATH is asked (`canary` and `task`: for one token, for more; `start`: before it
listens). Runs in the sandbox on the bare
standard library; `--target` names a socket of the host.
"""

import json
import os
import signal
import socket
import sys
import threading
import time

SOCKET = "/sock/llm.sock"
OPTIONS = dict(zip(sys.argv[1::1], sys.argv[2::1], strict=False))
TRICK, AT, TARGET = OPTIONS.get("--trick", ""), OPTIONS.get("--at", ""), OPTIONS.get("--target", "")
EVIL = "\x1b[2J\x1b]0;owned\x07\u202egnp.exe\x00\r\nERROR root logged in"
BOTH, WAITING, KEPT = threading.Barrier(2), {}, []
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
FAULT = b"HTTP/1.1 500 \x1b[2J\r\n"
MEBIBYTE = b"x" * (1 << 20)
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = {"token": "a", "id": 5, "logprob": -0.5, "top_logprobs": [{"token": "a", "id": 5, "logprob": -0.5}]}


def body(reply, head=OK):
    raw = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    return head + b"Content-Length: %d\r\n\r\n" % len(raw) + raw


def chunk(raw):
    return b"%x\r\n%s\r\n" % (len(raw), raw)


def event(payload):
    return chunk(b"data: " + json.dumps(payload).encode() + b"\n\n")


def token(**more):
    choice = {"index": 0, "text": "a", "finish_reason": None, "logprobs": {"content": [TOKEN]}}
    return event({"choices": [choice | more]})


def ending(finish="length", count=1):
    last = event({"choices": [{"index": 0, "text": "", "delta": {}, "finish_reason": finish}]})
    used = event({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": count}})
    return last + used + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def for_ever(peer, piece, pause_s=0.0):
    while True:
        peer.sendall(piece)
        time.sleep(pause_s)


def send_descriptors(peer):
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    socket.send_fds(peer, [body({"status": "ok"})], fds)


def answer_the_other(peer):
    """Of two requests at once, each gets what is for the other."""
    mine = threading.get_ident()
    WAITING[mine] = peer
    BOTH.wait()
    other = next(waiting for thread, waiting in WAITING.items() if thread != mine)
    other.sendall(STREAM + token() + ending())
    BOTH.wait()


def drop(_peer):
    """Close without a word."""


TRICKS = {
    "die": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda _: os._exit(0),
    "hang": lambda _: time.sleep(3600),
    "drop": drop,
    "no HTTP": lambda peer: peer.sendall(os.urandom(4096)),
    "words in place of HTTP": lambda peer: peer.sendall(EVIL.encode() * 10),
    "a huge header": lambda peer: peer.sendall(OK + b"X: " + b"x" * (64 << 20)),
    "endless headers": lambda peer: (peer.sendall(OK), for_ever(peer, b"X: %s\r\n" % (b"x" * 4000))),
    "endless small headers": lambda peer: (peer.sendall(OK), for_ever(peer, b"X:\r\n" * 1000)),
    "endless continuation": lambda peer: for_ever(peer, b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "a header a letter at a time": lambda peer: (peer.sendall(OK + b"X: "), for_ever(peer, b"x", 0.05)),
    "a body a letter at a time": lambda peer: (peer.sendall(OK + b"\r\n"), for_ever(peer, b"x", 0.05)),
    "too short for its length": lambda peer: peer.sendall(OK + b"Content-Length: 999\r\n\r\n{}"),
    "a negative length": lambda peer: peer.sendall(OK + b"Content-Length: -1\r\n\r\n{}"),
    "two lengths": lambda peer: peer.sendall(OK + b"Content-Length: 2\r\nContent-Length: 9\r\n\r\n{}"),
    "an endless body": lambda peer: (peer.sendall(OK + b"\r\n"), for_ever(peer, b"[" + b"1," * (1 << 19))),
    "a gigabyte": lambda peer: (peer.sendall(OK + b"Content-Length: %d\r\n\r\n" % (1 << 30)), for_ever(peer, MEBIBYTE)),
    "endless chunks": lambda peer: (peer.sendall(STREAM), for_ever(peer, chunk(b" " * 1000))),
    "endless chunk sizes": lambda peer: (peer.sendall(STREAM), for_ever(peer, b"0" * 4000)),
    "endless trailers": lambda peer: (peer.sendall(STREAM + b"0\r\n"), for_ever(peer, b"X: %s\r\n" % (b"x" * 4000))),
    "a bad chunk": lambda peer: peer.sendall(STREAM + b"zz\r\n{}\r\n0\r\n\r\n"),
    "zipped": lambda peer: peer.sendall(body(b"\x1f\x8b" + b"\0" * 99, OK + b"Content-Encoding: gzip\r\n")),
    "another place": lambda peer: peer.sendall(body(b"", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n")),
    "another protocol": lambda peer: peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nx"),
    "invalid UTF-8": lambda peer: peer.sendall(body(b'{"build_info": "\xff\xfe", "prompt": "\xff"}')),
    "deep nesting": lambda peer: peer.sendall(body(b"[" * 1_000_000)),
    "huge numbers": lambda peer: peer.sendall(body(b'{"tokens": [1e999999999, ' + b"9" * 100_000 + b"]}")),
    "escape codes in an error": lambda peer: peer.sendall(body({"error": {"message": EVIL}}, FAULT)),
    "escape codes in a type": lambda peer: peer.sendall(body({}, OK[:17] + b"Content-Type: \x1b[2J/\x07\r\n")),
    "escape codes in a value": lambda peer: peer.sendall(body({"build_info": EVIL, "prompt": EVIL, "tokens": [1]})),
    "descriptors": send_descriptors,
    "an endless answer": lambda peer: (peer.sendall(STREAM), for_ever(peer, token())),
    "an endless answer without tokens": lambda peer: (peer.sendall(STREAM), for_ever(peer, event({"choices": []}))),
    "an endless line": lambda peer: (peer.sendall(STREAM + chunk(b"data: ")), for_ever(peer, chunk(b"x" * 65536))),
    "tokens without an end": lambda peer: peer.sendall(STREAM + token() + b"0\r\n\r\n"),
    "an end of its own": lambda peer: peer.sendall(STREAM + token() + ending(EVIL)),
    "broken off": lambda peer: peer.sendall(STREAM + token() + b"ff\r\n{"),
    "silent after a token": lambda peer: (peer.sendall(STREAM + token()), time.sleep(3600)),
    "dead after a token": lambda peer: (peer.sendall(STREAM + token()), time.sleep(0.05), os.kill(os.getpid(), 9)),
    "an error in the stream": lambda peer: peer.sendall(STREAM + event({"error": {"message": EVIL, "code": 500}})),
    "an answer to somebody else": answer_the_other,
    "another model": lambda peer: peer.sendall(STREAM + event({"model": EVIL, "choices": []}) + token() + ending()),
}  # fmt: skip


def flood():
    for_ever(sys.stderr.buffer.raw, (EVIL + "\n").encode() * 1000)


def last_words():
    os.write(2, ("x" * 100_000 + "\n" + EVIL + "\n").encode() + b"\xff\xfe no UTF-8\n")
    os._exit(3)


def fork_away():
    if os.fork():
        os._exit(0)
    os.setsid()


def replace_the_socket(kind):
    """With something else of its name; keeps serving on the real one, if anybody had it open."""
    os.path.lexists(SOCKET) and os.unlink(SOCKET)
    match kind:
        case "a link":
            os.symlink(TARGET, SOCKET)
        case "a dangling link":
            os.symlink("/nowhere", SOCKET)
        case "a link to itself":
            os.symlink("llm.sock", SOCKET)
        case "a directory":
            os.mkdir(SOCKET)
        case "a file":
            open(SOCKET, "w").close()
        case "another kind of socket":
            KEPT.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            KEPT[-1].bind(SOCKET)


def flip_the_socket():
    """Now the real one, now a link to the host's."""
    os.rename(SOCKET, "/sock/real")
    while True:
        os.symlink(TARGET, "/sock/next")
        os.replace("/sock/next", SOCKET)
        os.link("/sock/real", "/sock/next")
        os.replace("/sock/next", SOCKET)


STARTS = {
    "floods stderr": lambda: threading.Thread(target=flood, daemon=True).start(),
    "last words": last_words,
    "forks away": fork_away,
    "never listens": lambda: time.sleep(3600),
    "ignores being asked to stop": lambda: [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)],
}


def ask(peer):
    """(path, body) of the next request; path is empty when there is none."""
    got = b""
    while b"\r\n\r\n" not in got:
        piece = peer.recv(65536)
        if not piece:
            return "", b""
        got += piece
    head, _, rest = got.partition(b"\r\n\r\n")
    length = next((int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length:")), 0)
    while len(rest) < length:
        rest += peer.recv(65536)
    return head.split(b" ")[1].decode(), rest


def honest(peer, path, asked):
    match path:
        case "/props":
            slots = {"n_ctx": 512}
            peer.sendall(body({"build_info": "b1-evil", "default_generation_settings": slots}))
        case "/apply-template":
            peer.sendall(body({"prompt": "Hi"}))
        case "/tokenize":
            peer.sendall(body({"tokens": list(json.loads(asked)["content"].encode())}))
        case "/v1/completions" | "/v1/chat/completions":
            peer.sendall(STREAM + token() + ending())
        case _:
            peer.sendall(body({"status": "ok"}))


def serve(peer):
    with peer:
        path, asked = ask(peer)
        told = path
        if path.startswith("/v1/"):
            told = "task" if json.loads(asked)["max_tokens"] > 1 else "canary"
        try:
            if told == AT and TRICK in TRICKS:
                TRICKS[TRICK](peer)
            else:
                honest(peer, path, asked)
        except OSError:
            pass


def main():
    if AT == "start" and TRICK in STARTS:
        STARTS[TRICK]()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(SOCKET)
    listening.listen(64)
    if AT == "socket":
        replace_the_socket(TRICK)
    if AT == "flipping":
        threading.Thread(target=flip_the_socket, daemon=True).start()
    while True:
        peer, _ = listening.accept()
        threading.Thread(target=serve, args=(peer,), daemon=True).start()


main()
