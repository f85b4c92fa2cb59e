"""Runs inside a sandbox, on CUDA's driver library alone: tells which GPUs there are, or holds memory on one.

`cuda_inside.py look` prints JSON; `cuda_inside.py hold BYTES` prints `up` once it holds them, and waits.
"""

import ctypes
import json
import os
import signal
import sys

UUID_BYTES = 16


def asked(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    if status:
        sys.exit(f"{name} failed with {status}")


def uuid_of(device):
    raw = (ctypes.c_ubyte * UUID_BYTES)()
    asked("cuDeviceGetUuid_v2" if hasattr(cuda, "cuDeviceGetUuid_v2") else "cuDeviceGetUuid", ctypes.byref(raw), device)
    digits = bytes(raw).hex()
    return "-".join(digits[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))


def look():
    count = ctypes.c_int()
    asked("cuDeviceGetCount", ctypes.byref(count))
    nodes = sorted(name for name in os.listdir("/dev") if name.startswith("nvidia"))
    print(json.dumps({"uuids": [uuid_of(device) for device in range(count.value)], "nodes": nodes}), flush=True)


def hold(size):
    context, memory = ctypes.c_void_p(), ctypes.c_uint64()
    asked("cuCtxCreate_v2", ctypes.byref(context), 0, 0)
    asked("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size))
    print("up", flush=True)
    signal.pause()


if "unmasked" in sys.argv:  # what a hostile program would do
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
cuda = ctypes.CDLL("libcuda.so.1")
asked("cuInit", 0)
if sys.argv[1] == "hold":
    hold(int(sys.argv[2]))
else:
    look()
