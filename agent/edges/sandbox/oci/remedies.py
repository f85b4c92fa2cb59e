"""What to do about a container that an engine does not start. Pure."""

from __future__ import annotations

_SAID = (
    (
        "Cannot connect to the Docker daemon",
        "`sudo systemctl start docker`, or let DOCKER_HOST name the socket of a daemon of this machine",
    ),
    (
        "unresolvable CDI devices",
        "`gpu-agent gpus` lists this machine's GPUs; `sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` "
        "describes them to container engines",
    ),
    ("could not select device driver", "Switch the feature `cdi` of dockerd on (daemon.json)"),
    ("cgroups in hybrid mode", 'crun does not run here: set sandbox.runtime = "runc"'),
    ("error setting rlimit", "The engine may not raise that limit here: give the agent's service a higher one"),
    (
        "newuidmap",
        "Install it: `sudo apt-get install uidmap`, and see that /etc/subuid has a line for the agent's user",
    ),
    (
        "insufficient UIDs or GIDs",
        "Give the agent's user ids for its containers: `sudo usermod --add-subuids 100000-165535 "
        "--add-subgids 100000-165535 USER`",
    ),
)


def remedy_for(said: str) -> str:
    """The remedy for an engine's own complaint, where it is a known one."""
    return next((remedy for words, remedy in _SAID if words in said), "")
