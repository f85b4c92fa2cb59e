"""What goes wrong, and how it is mended: one method a kind of fault."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from agent.core.wire import Directive
from agent.devnet.core import presence
from agent.devnet.core.rules import Refused
from tests.sim.machine import Machine
from tests.sim.plan import Fault

if TYPE_CHECKING:
    from tests.sim.world import World

DOOM_STEPS = 60
"""A crash comes so many steps of its victim after its time, at most: in the middle of something."""

JUMP_S = 35.0
"""A clock is set forth or back by so much at most. Twice that is less than transcripts are kept beyond need."""


class Faults:
    """Each begins something and returns how to end it, or None when it ends by itself."""

    def __init__(self, world: World) -> None:
        self.loop, self.network, self.authority = world.loop, world.network, world.authority
        self.machines, self.note, self.proofs = world.machines, world.note, world.truth.proofs

    async def strike(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at)
        self.note(f"fault {fault}")
        mend = getattr(self, f"_{fault.kind}")(fault, self.machines[fault.node])
        await asyncio.sleep(fault.lasts)
        if mend is not None:
            self.note(f"mended #{fault.number}")
            mend()

    def _node_crash(self, fault: Fault, machine: Machine):
        def dies() -> None:
            machine.kill()
            self.loop.call_later(fault.lasts, machine.start)

        machine.owner.die_after(int(fault.amount * DOOM_STEPS), dies)

    def _coordinator_crash(self, fault: Fault, machine: Machine):
        def dies() -> None:
            self.authority.crash()
            self.loop.call_later(fault.lasts, self._coordinator_again)

        self.authority.owner.die_after(int(fault.amount * DOOM_STEPS), dies)

    _node_gone = _node_crash

    def _node_trap(self, fault: Fault, machine: Machine):
        """It dies soon after the next step of any case."""
        self.proofs.traps.append(lambda: self._node_crash(fault, machine))

    def _coordinator_trap(self, fault: Fault, machine: Machine):
        self.proofs.traps.append(lambda: self._coordinator_crash(fault, machine))

    def _coordinator_again(self) -> None:
        if not self.authority.alive:
            self.authority.start()

    def _freeze_node(self, fault: Fault, machine: Machine):
        machine.owner.freeze()
        return machine.owner.thaw

    def _freeze_coordinator(self, fault: Fault, machine: Machine):
        self.authority.owner.freeze()
        return self.authority.owner.thaw

    def _cut_up(self, fault: Fault, machine: Machine):
        self.network.cut_up.add(machine.index)
        return lambda: self.network.cut_up.discard(machine.index)

    def _cut_down(self, fault: Fault, machine: Machine):
        self.network.cut_down.add(machine.index)
        return lambda: self.network.cut_down.discard(machine.index)

    def _cut_both(self, fault: Fault, machine: Machine):
        up, down = self._cut_up(fault, machine), self._cut_down(fault, machine)
        return lambda: (up(), down())

    def _slow_up(self, fault: Fault, machine: Machine):
        self.network.slow_up[machine.index] = 25 * fault.amount
        return lambda: self.network.slow_up.pop(machine.index, None)

    def _slow_down(self, fault: Fault, machine: Machine):
        self.network.slow_down[machine.index] = 25 * fault.amount
        return lambda: self.network.slow_down.pop(machine.index, None)

    def _fade(self, fault: Fault, machine: Machine):
        """Answers come later and later, then nothing goes either way: what renewed a lease last was an old answer."""
        back = self._slow_down(fault, machine)
        dark = self.loop.call_later(8, self._cut_both, fault, machine)

        def mend() -> None:
            dark.cancel()
            back()
            self.network.cut_up.discard(machine.index)
            self.network.cut_down.discard(machine.index)

        return mend

    def _straggler(self, fault: Fault, machine: Machine):
        """The next hello or goodbye is lost and sent again by the machine, long after the agent gave it up."""
        self.network.stragglers.add(machine.index)
        return lambda: self.network.stragglers.discard(machine.index)

    def _wall_jump(self, fault: Fault, machine: Machine):
        return self._clock_set(machine, 2 * JUMP_S * (fault.amount - 0.5))

    def _wall_wild(self, fault: Fault, machine: Machine):
        """By more than transcripts are kept: what was kept before goes at the next start, as docs/proof.md says."""
        machine.clock_is_wild = True
        return self._clock_set(machine, 7200 * (fault.amount - 0.5))

    def _clock_set(self, machine: Machine, by_s: float):
        before = machine.clock.wall_offset
        machine.clock.wall_offset += by_s

        def back() -> None:
            machine.clock.wall_offset = before

        return back

    def _disk_full(self, fault: Fault, machine: Machine):
        machine.disk.full = True
        return lambda: setattr(machine.disk, "full", False)

    def _disk_slow(self, fault: Fault, machine: Machine):
        machine.disk.write_s = 6 * fault.amount
        return lambda: setattr(machine.disk, "write_s", 0.004)

    def _store_slow(self, fault: Fault, machine: Machine):
        self.authority.disk.write_s = 4 * fault.amount
        return lambda: setattr(self.authority.disk, "write_s", 0.004)

    def _store_fails(self, fault: Fault, machine: Machine):
        self.authority.disk.fails = True

        def again() -> None:
            self.authority.disk.fails = False
            self.authority.crash()
            self.authority.start()

        return again

    def _engine_crash(self, fault: Fault, machine: Machine):
        if not machine.alive:
            return None
        engine, owner = machine.engine, machine.owner
        owner.call(engine.ready, False)
        return lambda: owner.alive and owner.call(engine.ready, True)

    def _drain_exit(self, fault: Fault, machine: Machine):
        machine.leave(20 * fault.amount, fault.lasts / 2 if fault.amount > 0.7 else None)
        return lambda: None if machine.leaving and machine.alive else machine.start()

    def _drain_ask(self, fault: Fault, machine: Machine):
        machine.ask("drain", 20 * fault.amount)
        return lambda: machine.ask("resume")

    def _pause(self, fault: Fault, machine: Machine):
        machine.ask("pause")
        return lambda: machine.ask("resume")

    def _directive(self, fault: Fault, machine: Machine):
        self._direct(machine, "drain" if fault.amount > 0.5 else "pause")
        return lambda: self._direct(machine, "resume")

    def _direct(self, machine: Machine, kind: str) -> None:
        authority = self.authority

        def direct() -> None:
            desk = authority.desk
            streaming = desk.streaming(machine.node_id)
            with contextlib.suppress(Refused):
                desk.when()
                desk.begin(presence.direct(desk.book, machine.node_id, Directive(kind=kind), streaming=streaming))

        if authority.alive:
            authority.owner.call(direct)
