"""The owner's pauses: what of them the agent's next life begins with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from agent.core import events as ev
from agent.core.errors import StorageError
from agent.core.gpu import Gpu, MigSlice
from agent.core.intake import NodeState
from agent.core.orders import PauseOrder, ResumeOrder
from agent.edges.pauses import FILE_NAME, PausesFile
from agent.stages.pausing import Pausing
from tests.stages.rig import Rig


class Life:
    """One run of the agent on this state; nothing of the last one is left but its files. `later_s`: after it."""

    def __init__(self, home: Path, later_s: float = 0.0) -> None:
        self.rig = Rig()
        self.rig.clock.advance(later_s)
        self.rig.engine.facts = msgspec.structs.replace(self.rig.engine.facts, device="GPU-1", ready=True)
        self.pausing = Pausing(self.rig.spine, self.rig.herald, PausesFile(home))

    async def begun(self) -> Life:
        await self.pausing.restore()
        self.rig.spine.feed(ev.PoolChanged(pool=self.rig.engine.facts))
        return self

    def takes_work(self) -> bool:
        return self.rig.node.credit("main") is not None

    def why(self) -> str:
        return "; ".join(gate.detail for gate in self.rig.node.gates(self.rig.clock.monotonic()))


@pytest.mark.parametrize("gpu", ["", "GPU-1"])
async def test_a_pause_goes_on_in_the_next_life_until_it_is_resumed(tmp_path: Path, gpu: str) -> None:
    first = await Life(tmp_path).begun()
    await first.pausing.pause(PauseOrder(gpu=gpu))
    second = await Life(tmp_path).begun()
    assert not second.takes_work()
    await second.pausing.resume(ResumeOrder(gpu=gpu))
    assert second.takes_work()
    assert (await Life(tmp_path).begun()).takes_work()


@pytest.mark.parametrize("gpu", ["", "GPU-1"])
async def test_an_end_by_the_clock_holds_over_a_restart(tmp_path: Path, gpu: str) -> None:
    await (await Life(tmp_path).begun()).pausing.pause(PauseOrder(for_s=7200.0, gpu=gpu))
    second = await Life(tmp_path, later_s=1800.0).begun()
    assert "paused for another 1 h 30 min" in second.why()
    second.rig.clock.advance(5400.0)
    second.rig.spine.feed(ev.Ticked())
    assert second.takes_work()
    assert (await Life(tmp_path, later_s=7200.0).begun()).takes_work()


async def test_of_two_pauses_the_one_that_is_not_resumed_is_kept(tmp_path: Path) -> None:
    first = await Life(tmp_path).begun()
    await first.pausing.pause(PauseOrder())
    await first.pausing.pause(PauseOrder(gpu="GPU-1"))
    await first.pausing.resume(ResumeOrder(gpu="GPU-1"))
    second = await Life(tmp_path).begun()
    assert (second.rig.node.state, second.rig.node.devices.paused) == (NodeState.PAUSED, {})


async def test_a_damaged_file_pauses_the_node_with_the_reason_and_resume_heals_it(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"[{")
    life = await Life(tmp_path).begun()
    assert not life.takes_work()
    assert "until `gpu-agent resume`: whether you paused before the restart is not known" in life.why()
    await life.pausing.pause(PauseOrder(gpu="GPU-1"))
    assert (await Life(tmp_path).begun()).rig.node.state is NodeState.PAUSED
    await life.pausing.resume(ResumeOrder())
    assert life.takes_work()
    assert (await Life(tmp_path).begun()).takes_work()


async def test_a_drain_is_not_kept(tmp_path: Path) -> None:
    first = await Life(tmp_path).begun()
    first.rig.spine.feed(ev.DrainAsked(limit_s=5.0))
    await first.pausing.pause(PauseOrder())
    assert (await Life(tmp_path).begun()).takes_work()


async def test_a_gpu_that_is_cut_after_the_restart_is_paused_with_its_slices(tmp_path: Path) -> None:
    await (await Life(tmp_path).begun()).pausing.pause(PauseOrder(gpu="GPU-1"))
    second = Life(tmp_path)
    part = MigSlice(uuid="MIG-1", name="1g.10gb", memory_total_bytes=1)
    cut = Gpu(uuid="GPU-1", name="NVIDIA H100", index=0, mig=(part,))
    second.rig.herald.fingerprint = msgspec.structs.replace(second.rig.herald.fingerprint, gpus=(cut,))
    await second.begun()
    assert second.rig.node.devices.paused.keys() == {"GPU-1", "MIG-1"}


@pytest.mark.parametrize(
    ("say", "state"),
    [
        (lambda it: it.pause(PauseOrder()), NodeState.PAUSED),
        (lambda it: it.resume(ResumeOrder()), NodeState.SERVING),
    ],
)
async def test_what_cannot_be_kept_holds_now_and_says_that_it_does_not_last(
    tmp_path: Path, say: Callable[[Pausing], Awaitable[None]], state: NodeState
) -> None:
    life = await Life(tmp_path).begun()
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StorageError) as refused:
        await say(life.pausing)
    assert "now, but" in refused.value.remedy
    assert life.rig.node.state is state
