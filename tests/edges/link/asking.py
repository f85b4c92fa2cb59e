"""What links are asked for."""

from __future__ import annotations

import pytest

from agent.core import wire
from agent.core.errors import LinkError
from tests.fakes.mind import KEY, SIGNED

BEAT = wire.Beat(held=(KEY,), state="active")
PULL = wire.Pull(credits=(wire.Credit(pool="cpu", model_digest="sha256:" + "0" * 64, count=1),), wait_s=0)


def result(output: str) -> wire.Result:
    return wire.Result(deliveries=(wire.Delivery(signed=SIGNED, output=output),))


RESULT = result("forty-two")
CHUNK = wire.Chunk(key=KEY, index=0, text="forty", tokens=1)


async def fault_of(link_call: object) -> LinkError:
    with pytest.raises(LinkError) as caught:
        await link_call  # type: ignore[misc]
    return caught.value
