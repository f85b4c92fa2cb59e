"""The configuration as an owner meets it: sources, faults, messages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Config, EngineKind, LogLevel, TransportChoice, load, load_with_origins
from agent.config.example import example
from agent.config.places import places
from agent.config.positions import key_lines
from agent.config.strange import keys_of
from agent.core.errors import ConfigError
from agent.core.model import TaskKind

NOWHERE = {"HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent"}
MODEL = '[[models]]\nname = "m"\npath = "m.gguf"\n'
EXEC = f'[exec]\nenabled = true\ntrusted_keys = ["{"ab" * 32}"]\n'


def write(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text)
    return file


def faults_of(folder: Path, text: str, *overrides: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), overrides, environ or NOWHERE)
    assert caught.value.exit_code == 78
    return caught.value.faults


def told(file: Path | None, overrides: list[str]) -> list[str] | None:
    """The faults, or None when the configuration is fine. Any other exception is a bug."""
    try:
        load_with_origins(file, overrides, NOWHERE, uid=1000)
    except ConfigError as error:
        return error.faults
    return None


def test_no_file_at_the_default_place_gives_the_defaults() -> None:
    loaded = load_with_origins(None, (), NOWHERE, uid=1000)
    assert loaded.file is None
    assert loaded.config.gpu == Config().gpu
    assert set(loaded.origins.values()) == {"default", "default (user)"}


def test_a_full_configuration_is_typed(tmp_path: Path) -> None:
    config = load(
        write(
            tmp_path,
            MODEL
            + """
            [coordinator]
            url = "https://c.example"
            transport = "poll"
            [gpu]
            period_s = 2
            [[pools]]
            name = "p"
            model = "m"
            device = "GPU-8f6d3ad7-3c33-4b6f-9f5a-1f8b4a6b1a2c"
            slots = 4
            kinds = ["completion"]
            [[pools]]
            name = "far"
            model = "m"
            engine = "external"
            profile = "vllm"
            url = "unix:/run/vllm.sock"
            """,
        ),
        environ=NOWHERE,
    )
    assert config.coordinator.transport is TransportChoice.POLL
    assert config.gpu.period_s == 2.0
    assert config.pools[0].kinds == (TaskKind.COMPLETION,)
    assert config.pools[1].engine is EngineKind.EXTERNAL
    assert config.model_named("m").path == tmp_path / "m.gguf"


def test_command_line_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path, '[logs]\nlevel = "error"\nformat = "json"\n[gpu]\nperiod_s = 5\ndeadline_s = 5\n')
    environ = {**NOWHERE, "GPU_AGENT_LOGS__LEVEL": "debug", "GPU_AGENT_GPU__PERIOD_S": "6"}
    loaded = load_with_origins(file, ["gpu.period_s=7"], environ, uid=1000)
    assert loaded.config.logs.level is LogLevel.DEBUG
    assert (loaded.config.gpu.period_s, loaded.config.gpu.deadline_s) == (7.0, 5.0)
    assert loaded.origins["gpu.period_s"] == "--set"
    assert loaded.origins["logs.level"] == "environment GPU_AGENT_LOGS__LEVEL"
    assert loaded.origins["logs.format"] == "file"
    assert loaded.origins["gpu.enabled"] == "default"


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, '[node]\nname = "rig"\n')
    assert load(environ={**NOWHERE, "GPU_AGENT_CONFIG": str(file)}).node.name == "rig"


def test_overrides_reach_into_lists_and_append_at_their_end(tmp_path: Path) -> None:
    file = write(tmp_path, MODEL + '[[pools]]\nname = "p"\nmodel = "m"\n')
    config = load(
        file,
        ["pools.0.slots=3", "pools.0.kinds=chat", "pools.0.args=['-x', '1']", "pools.1.name=q", "pools.1.model=m"],
        {**NOWHERE, "GPU_AGENT_POOLS__0__THREADS": "2"},
    )
    assert [pool.name for pool in config.pools] == ["p", "q"]
    assert (config.pools[0].slots, config.pools[0].threads) == (3, 2)
    assert (config.pools[0].kinds, config.pools[0].args) == ((TaskKind.CHAT,), ("-x", "1"))


def test_all_faults_are_told_at_once_with_line_key_and_suggestion(tmp_path: Path) -> None:
    told = faults_of(
        tmp_path,
        """[node]
name = "a b"
drain_limit_s = -3
[coordinator]
transprot = "poll"
transport = "webscoket"
[gpus]
[[pools]]
name = "x"
model = "none"
slots = true
[[pools]]
name = "x"
""",
        "nonsense",
        environ={**NOWHERE, "GPU_AGENT_LOGS__LEVEL": "chatty"},
    )
    assert told == [
        'config.toml:2: node.name: must be letters, digits, dots, dashes and underscores, at most 63; it is "a b"',
        "config.toml:3: node.drain_limit_s: must be a number, at least 0, at most 86400; it is -3",
        'config.toml:5: coordinator.transprot: is no key of ours; did you mean "transport"?',
        'config.toml:6: coordinator.transport: must be one of "auto", "websocket", "poll"; it is "webscoket";'
        ' did you mean "websocket"?',
        'config.toml:7: gpus: is no section of ours; did you mean "gpu"?',
        'config.toml:10: pools[0].model: no model is called "none"; models: none',
        "config.toml:11: pools[0].slots: must be a whole number, at least 1, at most 1024; it is true",
        "config.toml:12: pools[1].model: is missing",
        'config.toml:13: pools[1].name: "x" is taken by pools[0]',
        "--set: nonsense: must read section.key=value",
        'environment GPU_AGENT_LOGS__LEVEL: logs.level: must be one of "debug", "info", "warning", "error";'
        ' it is "chatty"',
    ]


@pytest.mark.parametrize("section", Config.__struct_fields__)
def test_a_misspelt_key_and_a_misspelt_section_get_a_suggestion_everywhere(tmp_path: Path, section: str) -> None:
    first = keys_of(section)[0]
    header = f"[[{section}]]" if isinstance(getattr(Config(), section), tuple) else f"[{section}]"
    told = faults_of(tmp_path, f"{header}\n{first}x = 1\n")
    assert any(line.startswith("config.toml:2: ") and f'did you mean "{first}"?' in line for line in told), told
    told = faults_of(tmp_path, f"{header.replace(section, section + 'x')}\n")
    assert told == [f'config.toml:1: {section}x: is no section of ours; did you mean "{section}"?']


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("period_s = 3", "period_s: is no section of ours; it is a key of [gpu]"),
        ("[node]\nperiod_s = 3", "node.period_s: is no key of ours; it is a key of [gpu]"),
        ('[identity]\nkey = "x"', 'identity.key: is no key of ours; did you mean "key_file"?'),
        ("[control]\nzzz = 1", "control.zzz: is no key of ours; [control] has socket"),
        ("[zzz]", "zzz: is no section of ours; sections: node, coordinator"),
        ("node = 3", "node: must be a table: write [node] and its keys below"),
        ("pools = 3", "pools: must be a list of tables: write [[pools]]"),
        ("[gpu]\nperiod_s = nan", "period_s: must be a number, at least 0.1, at most 3600; it is nan"),
        ("[gpu]\nperiod_s = inf", "period_s: must be a number, at least 0.1, at most 3600; it is inf"),
        ("[gpu]\nenabled = 1", "gpu.enabled: must be true or false; it is 1"),
        ('[gpu]\nlibrary = ""', 'gpu.library: must be a path; it is ""'),
        ("[gpu]\nlibrary = 3", "gpu.library: must be a path; it is 3"),
        ("[sandbox]\nengine_pids = 0", "engine_pids: must be a whole number, at least 16"),
        ("[sandbox]\nengine_memory_mib = 99999999999999999999", "engine_memory_mib: must be a whole number"),
        ('[coordinator]\nurl = "ftp://x"', "coordinator.url: must look like https://coordinator.example"),
        ('[coordinator]\nurl = "https://c:99999"', "coordinator.url: must look like"),
        ('[coordinator]\nurl = "https://u:p@c.example"', "coordinator.url: must not carry a user"),
        ('[coordinator]\nurl = "ws://c.example"', "ws:// is allowed to this machine only; use wss://"),
        ('[coordinator]\nurl = "http://127.0.0.1.evil.example"', "http:// is allowed to this machine only"),
        ('[[models]]\nname = "m"', "models[0].path: is missing; without it the digest must be given"),
        (MODEL + 'digest = "sha256:AB"', "models[0].digest: must be sha256: and 64 lower-case hex digits"),
        (MODEL + MODEL, 'models[1].name: "m" is taken by models[0]'),
        (
            MODEL + '[[pools]]\nname="p"\nmodel="m"\nurl="http://localhost"',
            'is for pools with engine = "external" only',
        ),
        (MODEL + '[[pools]]\nname="p"\nmodel="m"\nprofile="vllm"', 'must be "llama-server", or set engine'),
        (MODEL + '[[pools]]\nname="p"\nmodel="m"\nengine="external"', "pools[0].url: is missing"),
        (MODEL + '[[pools]]\nname="p"\nmodel="m"\nkinds=[]', "kinds: must be a list that is not empty"),
        (MODEL + '[[pools]]\nname="p"\nmodel="m"\nkinds=["chat","embedding"]', "make two pools"),
        (
            MODEL + '[[pools]]\nname="p"\nmodel="m"\nengine="external"\nurl="http://10.0.0.1:1"\nbinary="/x"',
            "binary: the agent does not start an external engine; remove it",
        ),
        (
            MODEL + '[[pools]]\nname="p"\nmodel="m"\nengine="external"\nurl="http://localhost"\ngpu_memory_mib=100',
            "gpu_memory_mib: the agent does not start an external engine; remove it",
        ),
        (
            MODEL + '[[pools]]\nname="p"\nmodel="m"\nengine="external"\nurl="http://10.0.0.1:1"',
            "pools[0].url: http:// is allowed to this machine only; use https://",
        ),
        (
            MODEL + '[[pools]]\nname="p"\nmodel="m"\nengine="external"\nurl="http://localhost"\ntoploc=true',
            "pools[0].toploc: an external engine tells no hidden states",
        ),
        (MODEL + '[[pools]]\nname="p"\nmodel="m"\nkinds=["embedding"]\ntoploc=true', "toploc: is of generated tokens"),
        (
            MODEL + '[[pools]]\nname="p"\nmodel="m"\ndevice="cpu"\ntoploc=true\n[[pools]]\nname="p-states"\nmodel="m"',
            'pools[1].name: "p-states" is the second engine of pools[0]',
        ),
        (MODEL + '[[pools]]\nname="p"\nmodel="m"\ntoploc=true', 'pools[0].toploc: needs device = "cpu"'),
        ("[exec]\nenabled = true", "exec.trusted_keys: is empty; programs of nobody would be run"),
        (
            '[exec]\ntrusted_keys = ["AB"]',
            "exec.trusted_keys: must be a list, each an Ed25519 public key, 64 lower-case hex digits",
        ),
        ('[exec]\ndevice = "auto"', 'exec.device: must be "cpu" or a GPU UUID'),
        ("[exec]\nout_mib = 57", "exec.out_mib: must be a whole number, at least 1, at most 56"),
        (f'{EXEC}device = "GPU-1"\nslots = 2', "exec.slots: must be 1 with a GPU"),
        (f'{EXEC}device = "GPU-1"\n{MODEL}[[pools]]\nname="p"\nmodel="m"\ndevice="GPU-1"', "is the GPU of pools[0]"),
        (f'{EXEC}{MODEL}[[pools]]\nname="exec"\nmodel="m"', 'pools[0].name: "exec" is the pool of programs'),
        (MODEL + '[[pools]]\nname="p"\nmodel="m"\nkinds=["exec"]', "an engine runs no programs"),
        ("[proof]\ntop_logprobs = 19", "proof.top_logprobs: must be a whole number, at least 20, at most 256"),
        ('[owner]\nschedule = ["always"]', "owner.schedule[0]: is no window: 'always': expected days and times"),
        ('[owner]\ntime_zone = "Berlin"', "owner.time_zone: is 'Berlin'; expected a name such as Europe/Berlin"),
        ("[owner]\nhand_back_after_s = -1", "owner.hand_back_after_s: must be a number, at least 0"),
        ("[node]\nname = 'a\x7f'", "line 2, column"),
        ("[node", "line 1, column"),
        ("[node]\nname = 1\nname = 2", "line 3, column"),
    ],
)
def test_a_bad_value_is_named_in_plain_words(tmp_path: Path, text: str, fault: str) -> None:
    assert any(fault in line for line in faults_of(tmp_path, text)), faults_of(tmp_path, text)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://localhost:1", "ws://[::1]:9", "https://c.example/base"]
)
def test_plain_text_is_allowed_to_loopback_and_tls_everywhere(tmp_path: Path, url: str) -> None:
    assert load(write(tmp_path, f'[coordinator]\nurl = "{url}"'), environ=NOWHERE).coordinator.url == url


def test_a_model_that_only_an_external_engine_has_needs_no_file(tmp_path: Path) -> None:
    digest = "sha256:" + "a" * 64
    text = f'[[models]]\nname = "m"\ndigest = "{digest}"\n[[pools]]\nname = "p"\nmodel = "m"\n'
    assert "has no path, and this engine needs the file" in faults_of(tmp_path, text)[0]
    load(write(tmp_path, text + 'engine = "external"\nurl = "http://localhost:1"\n'), environ=NOWHERE)


def test_paths_are_taken_from_the_files_folder_and_from_home(tmp_path: Path) -> None:
    file = write(tmp_path, '[node]\nstate_dir = "state"\ncache_dir = "~/c"\nruntime_dir = "/r"\n')
    node = load(file, environ={"HOME": "/home/ann"}).node
    assert (node.state_dir, node.cache_dir, node.runtime_dir) == (
        tmp_path / "state",
        Path("/home/ann/c"),
        Path("/r"),
    )


def test_a_named_file_that_is_missing_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml") as caught:
        load(tmp_path / "absent.toml", environ=NOWHERE)
    assert caught.value.faults == ["no such file; `gpu-agent config init` writes one"]


def test_a_file_that_is_no_text_or_no_file_or_too_large_is_a_fault(tmp_path: Path) -> None:
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"[node]\nname = \xff\n")
    large = tmp_path / "l.toml"
    large.write_bytes(b"#" * (2 << 20))
    for file, fault in ((binary, "line 2: not UTF-8"), (large, "larger than 1 MiB"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load(file, environ=NOWHERE)
        assert fault in caught.value.faults[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_a_fault(tmp_path: Path) -> None:
    file = write(tmp_path, "")
    file.chmod(0)
    with pytest.raises(ConfigError) as caught:
        load(file, environ=NOWHERE)
    assert caught.value.faults == ["cannot be read: Permission denied"]


def test_the_example_is_valid_and_changes_nothing(tmp_path: Path) -> None:
    loaded = load_with_origins(write(tmp_path, example()), (), NOWHERE, uid=1000)
    assert all(origin.startswith("default") for origin in loaded.origins.values())


def test_the_example_uncommented_is_valid(tmp_path: Path) -> None:
    lines = [line.removeprefix("# ") if " = " in line or "[[" in line else line for line in example().splitlines()]
    text = "\n".join(line for line in lines if not line.startswith("# ") and "config.example" not in line)
    own_engine = [
        line for line in text.splitlines() if not line.startswith(('url = "http:', "api_key_file", "has none"))
    ]
    config = load(write(tmp_path, "\n".join(own_engine)), environ=NOWHERE)
    assert config.pools[0].threads == 4
    assert config.coordinator.url == "https://coordinator.example"


def test_the_committed_example_is_the_generated_one() -> None:
    committed = Path(__file__).parents[1] / "config.example.toml"
    assert committed.read_text() == example(), "run `make docs`"


def test_systemd_directories_come_before_root_and_user_places() -> None:
    unit = {"STATE_DIRECTORY": "/s:/other", "CACHE_DIRECTORY": "/c", "RUNTIME_DIRECTORY": "/r", "HOME": "/h"}
    assert [places(unit, 0).state_dir.path, places(unit, 5).cache_dir.path] == [Path("/s"), Path("/c")]
    assert places({"HOME": "/h"}, 0).state_dir.path == Path("/var/lib/gpu-agent")
    assert places({"HOME": "/h"}, 5).state_dir.path == Path("/h/.local/state/gpu-agent")
    assert places({"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/5"}, 5).runtime_dir.path == Path("/run/user/5/gpu-agent")
    assert places({"HOME": "/h", "XDG_STATE_HOME": "relative"}, 5).state_dir.path == Path("/h/.local/state/gpu-agent")


def test_a_systemd_credential_is_the_key_unless_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "node.key").write_text("x")
    environ = {**NOWHERE, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load_with_origins(environ=environ, uid=1000).config.key_file == tmp_path / "node.key"
    named = load_with_origins(environ=environ, overrides=["identity.key_file=/k"], uid=1000)
    assert named.config.key_file == Path("/k")


def test_lines_are_found_in_sections_and_repeated_tables() -> None:
    text = '# c\n[node]\nname = "x"\n[[pools]]\nname="a"\n\n[[ pools ]] # second\n  slots = 3\n'
    assert key_lines(text) == {
        "node": 2,
        "node.name": 3,
        "pools[0]": 4,
        "pools[0].name": 5,
        "pools[1]": 7,
        "pools[1].slots": 8,
    }


@given(st.text(max_size=200), st.lists(st.text(max_size=30), max_size=3))
def test_no_text_and_no_override_gets_past_config_error(
    tmp_path_factory: pytest.TempPathFactory, text: str, extra: list[str]
) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert told(file, extra) != []


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
KEYS = st.sampled_from(
    ["node.name", "gpu.period_s", "pools.0.slots", "pools.0", "pools", "models.0.path", "node", "coordinator.url"]
)


@given(st.lists(st.tuples(KEYS, SCALARS), max_size=6))
def test_any_value_anywhere_is_accepted_or_a_told_fault(pairs: list[tuple[str, object]]) -> None:
    assert all(": " in fault for fault in told(None, [f"{key}={value}" for key, value in pairs]) or [])


@pytest.mark.parametrize("listen", ["9410", "127.0.0.1", "http://127.0.0.1:9410", "127.0.0.1:99999", "a@b:1", ""])
def test_the_metrics_address_is_an_address_and_a_port(tmp_path: Path, listen: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, f'[metrics]\nlisten = "{listen}"\n'), environ=NOWHERE)
    assert "metrics.listen" in "\n".join(caught.value.faults)
    assert load(write(tmp_path, '[metrics]\nlisten = "[::]:1"\n'), environ=NOWHERE).metrics.listen == "[::]:1"


@pytest.mark.parametrize("listen", ["0.0.0.0:9411", "[::]:9411", "192.168.1.5:9411", "rig.example:9411", "9411"])
def test_the_owners_page_is_for_this_machine_alone(tmp_path: Path, listen: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, f'[page]\nlisten = "{listen}"\n'), environ=NOWHERE)
    assert "page.listen" in "\n".join(caught.value.faults)
    for here in ("localhost:0", "127.0.0.2:1", "[::1]:1"):
        assert load(write(tmp_path, f'[page]\nlisten = "{here}"\n'), environ=NOWHERE).page.listen == here
