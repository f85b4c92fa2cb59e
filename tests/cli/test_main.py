"""The command line as a shell sees it: real processes, exit statuses, what is imported."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agent.cli.main import VERBS, run, tell
from agent.core.errors import AgentError, ConfigError, IdentityError
from tests.patience import PATIENCE_S

HEAVY = {"aiohttp", "cryptography", "pynvml", "structlog", "rich", "psutil", "sqlite3", "asyncio", "ssl"}


def gpu_agent(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE_S,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONPATH": str(Path(__file__).parents[2]), **environ},
    )


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['gpu-agent', '--help']\n"
        "from agent.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert all(f"  {verb} " in ran.stdout for verb in VERBS)
    assert not HEAVY & set(ran.stderr.split())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_command_with_help(verb: str) -> None:
    ran = gpu_agent(verb, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"Usage: gpu-agent {verb}")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["statsu"], "no verb 'statsu'; did you mean 'status'?"),
        (["zzzzz"], "no verb 'zzzzz'; verbs: demo, enrol"),
        (["version", "--jsn"], "--json"),
        (["--nope"], "no such option '--nope'"),
    ],
)
def test_a_wrong_command_line_exits_2_with_a_suggestion(arguments: list[str], sentence: str) -> None:
    ran = gpu_agent(*arguments)
    assert ran.returncode == 2
    assert sentence in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_bad_configuration_exits_78_and_lists_every_fault(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[gpu]\nperiod_s = -1\n[logs]\nlevel = "loud"\n')
    ran = gpu_agent("config", "check", "--config", str(file))
    assert ran.returncode == 78
    assert ran.stdout == ""
    assert ran.stderr.splitlines()[1:3] == [
        "  c.toml:2: gpu.period_s: must be a number, at least 0.1, at most 3600; it is -1",
        '  c.toml:4: logs.level: must be one of "debug", "info", "warning", "error"; it is "loud"',
    ]


def test_every_file_that_is_named_and_not_there_is_told_with_its_line_beside_the_other_faults(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        '[[models]]\nname = "m"\npath = "m.gguf"\nchat_template = "."\n[[pools]]\nname = "p"\nmodel = "m"\nslot = 1\n'
        'binary = "./engine"\n[coordinator]\nca_file = "ca.pem"\nenrol_token_file = "used.token"\n'
        '[proof]\ncalibrations = "c.toml"\n[gpu]\nlibrary = "nvml.so"\n[sandbox]\nbwrap = "/nowhere/bwrap"\n'
    )
    ran = gpu_agent("config", "check", "--config", str(file))
    assert ran.returncode == 78
    mine = " does not exist; correct it, or leave it out for the"
    assert ran.stderr.splitlines()[1:-1] == [
        f"  c.toml:3: models[0].path: {tmp_path}/m.gguf does not exist; put the model there, or correct the path",
        f"  c.toml:4: models[0].chat_template: {tmp_path} is no file; correct it, or leave it out for the model's own",
        '  c.toml:8: pools[0].slot: is no key of ours; did you mean "slots"?',
        '  c.toml:9: pools[0].binary: engine does not exist; correct the path, or write "auto"',
        f"  c.toml:11: coordinator.ca_file: {tmp_path}/ca.pem{mine} system's own",
        f"  c.toml:14: proof.calibrations: {tmp_path}/c.toml is no directory; make the directory, or leave it out",
        f"  c.toml:16: gpu.library: {tmp_path}/nvml.so{mine} driver's own",
        '  c.toml:18: sandbox.bwrap: /nowhere/bwrap does not exist; correct the path, or write "auto"',
    ]


def test_version_is_one_json_object() -> None:
    ran = gpu_agent("version", "--json")
    assert {"agent", "protocol", "python", "kernel", "os"} <= set(json.loads(ran.stdout))


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    shell = f"{shlex.quote(sys.executable)} -m agent config init --stdout; echo $? >&2"
    ran = subprocess.run(
        ["sh", "-c", f"({shell}) | true"], capture_output=True, check=False, text=True, timeout=PATIENCE_S
    )
    assert ran.stderr == "1\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_finds_no_room_is_told_in_one_line() -> None:
    shell = f"{shlex.quote(sys.executable)} -m agent config init --stdout >/dev/full"
    ran = subprocess.run(["sh", "-c", shell], capture_output=True, check=False, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (74, "error: the output cannot be written: No space left on device\n")


def test_what_a_peer_put_into_an_error_cannot_touch_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    tell(IdentityError("refused: \x1b[2Jgone\r\nerror: forged", remedy="enrol again\x07"))
    shown = capsys.readouterr().err
    assert shown == "error: refused: gone error: forged\n  → enrol again\n"


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (AgentError("broken"), 1),
        (IdentityError("no key"), 77),
        (ConfigError(["a: b"]), 78),
        (KeyboardInterrupt(), 130),
        (click.UsageError("no"), 2),
    ],
)
def test_each_kind_of_failure_has_its_exit_status(failure: BaseException, status: int) -> None:
    verb = click.Command("fails", callback=lambda: (_ for _ in ()).throw(failure))
    assert run([], command=verb) == status


def test_config_init_writes_the_example_once_and_never_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "etc" / "config.toml"
    assert gpu_agent("config", "init", str(file)).returncode == 0
    assert gpu_agent("config", "check", "-c", str(file)).stdout.splitlines() == [
        f"{file}: ok (0 keys set, 0 models, 0 pools)",
        "  · coordinator.url is not set: the node has nobody to work for",
        "  · there are no [[pools]]: the node takes no work",
    ]
    file.write_text("# mine\n")
    again = gpu_agent("config", "init", str(file))
    assert again.returncode == 78
    assert "exists already and is not overwritten" in again.stderr
    assert file.read_text() == "# mine\n"


def test_config_check_says_on_whose_clock_a_schedule_is_read(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[owner]\nschedule = ["22:00-06:00"]\n')
    told = gpu_agent("config", "check", "-c", str(file)).stdout
    assert re.search(r"owner\.schedule is read on the clock of .*this machine", told)
    named = gpu_agent("config", "check", "-c", str(file), "--set", "owner.time_zone=Asia/Tokyo").stdout
    assert "owner.schedule is read on the clock of Asia/Tokyo\n" in named


def test_config_show_tells_each_value_and_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[logs]\nlevel = "error"\n')
    ran = gpu_agent(
        "config",
        "show",
        "--origin",
        "--json",
        "-c",
        str(file),
        "-s",
        "gpu.period_s=3",
        GPU_AGENT_PROOF__TOP_LOGPROBS="25",
    )
    shown = json.loads(ran.stdout)
    assert shown["logs.level"] == {"value": "error", "origin": "file"}
    assert shown["gpu.period_s"] == {"value": 3.0, "origin": "--set"}
    assert shown["proof.top_logprobs"] == {"value": 25, "origin": "environment GPU_AGENT_PROOF__TOP_LOGPROBS"}
    assert shown["gpu.enabled"] == {"value": True, "origin": "default"}
    text = gpu_agent("config", "show", "-c", str(file)).stdout
    assert any(line.split() == ["logs.level", "=", '"error"'] for line in text.splitlines())


def test_a_token_file_that_cannot_be_written_is_told_with_a_remedy(tmp_path: Path) -> None:
    where = ("--state-dir", str(tmp_path / "state"), "--token-file", str(tmp_path / "nowhere" / "token"))
    done = gpu_agent("coordinator", *where)
    assert done.returncode == 69
    assert f"error: cannot write {tmp_path}/nowhere/token: No such file or directory" in done.stderr
    assert "→ Name a --token-file" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_log_of_a_coordinator_has_good_news_as_well(tmp_path: Path) -> None:
    where = ("--state-dir", str(tmp_path / "state"), "--token-file", str(tmp_path / "nowhere" / "token"))
    done = gpu_agent("coordinator", *where)  # which ends it
    assert " INFO coordinator.started http://127.0.0.1:" in done.stderr


def test_verbs_get_the_configuration_from_their_options(tmp_path: Path) -> None:
    from agent.cli.options import with_config

    file = tmp_path / "c.toml"
    file.write_text('[node]\nname = "rig"\n')
    verb = click.command()(with_config(lambda config: click.echo(f"{config.node.name} {config.gpu.period_s}")))
    ran = CliRunner().invoke(verb, ["-c", str(file), "--set", "gpu.period_s=9"])
    assert ran.output == "rig 9.0\n"
