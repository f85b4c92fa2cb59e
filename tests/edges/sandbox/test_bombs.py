"""Programs that take all they can get meet their limits, by cgroups and without, and the agent goes on."""

from pathlib import Path

import pytest

from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.sandbox.confine import OOM_SCORE_ADJ
from agent.ports import Limits
from tests.bombs import ALL, BOMBS, set_off
from tests.patience import within
from tests.sandboxes import run, said_up, shell

pytestmark = pytest.mark.usefixtures("sandboxes")


@pytest.fixture(params=["cgroup", "none"])
def backend(request, tmp_path):
    return Bubblewrap(tmp_path) if request.param == "cgroup" else Bubblewrap(tmp_path, cgroup_root=tmp_path)


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_meets_its_limit(backend, name):
    bomb = BOMBS[name]
    if bomb.argv[0] == "":
        pytest.skip("this bomb needs a Python in /usr/bin")
    blast = await within(set_off(backend, bomb))
    assert blast.end.kind in bomb.kinds, blast
    assert bomb.says in blast.stderr


async def test_a_second_sandbox_and_the_agent_go_on_beside_a_bomb(backend):
    forever = shell("f() { f & f & wait; }; while :; do f; done 2>/dev/null", limits=ALL)
    bomb = await within(backend.start(forever))
    end, stderr = await run(backend, "for i in 1 2 3 4 5; do sleep 0 & done; wait; echo fine >&2", limits=ALL)
    assert (end.code, stderr) == (0, "fine\n")
    bomb.kill()
    await within(bomb.wait())


async def test_the_limits_of_a_process_are_what_was_asked_and_cannot_be_raised(backend):
    script = 'for l in c n f q; do echo "$l $(ulimit -S$l) $(ulimit -H$l)" >&2; done'
    if not Path("/bin/bash").exists():
        pytest.skip("needs bash, whose ulimit knows message queues")
    limits = Limits(open_files=99, file_bytes=1 << 20)
    handle = await within(backend.start(shell(f"exec /bin/bash -c '{script}'", limits=limits)))
    await within(handle.wait())
    # -c and -f count in blocks of 1024 bytes; one byte of core is none.
    assert handle.stderr_tail() == "c 0 0\nn 99 99\nf 1024 1024\nq 0 0\n"


async def test_a_task_goes_first_when_the_machine_runs_out_of_memory(backend, shared):
    handle = await within(backend.start(shell("cat /proc/self/oom_score_adj >/sock/up; sleep 600", socket_dir=shared)))
    assert await said_up(shared) == f"{OOM_SCORE_ADJ}\n"
    handle.kill()
    await within(handle.wait())
