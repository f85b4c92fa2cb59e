"""Reads whether the engines and models that the configuration names are there."""

from __future__ import annotations

import os
from pathlib import Path

from agent.config import Config, EngineKind, ModelConfig, PoolConfig, ProofConfig
from agent.core import judgements as judge
from agent.core import proof_judgements
from agent.core.doctor import Finding
from agent.core.errors import EngineError
from agent.edges.engines.build import validates
from agent.edges.engines.launch import find_llama_server
from agent.edges.models.thresholds import shelf


def engine(pool: PoolConfig) -> Finding:
    """The program of an own engine; an external one is known by its address."""
    if pool.engine is EngineKind.EXTERNAL:
        return judge.engine(pool.name, actual=f"external at {pool.url}", fault="")
    try:
        binary = find_llama_server(pool.binary)
    except EngineError as missing:
        return judge.engine(pool.name, actual="", fault=missing.message)
    fault = "" if os.access(binary, os.X_OK) else f"{binary} is no program that this user may run"
    return judge.engine(pool.name, actual=str(binary), fault=fault)


def model(chosen: ModelConfig) -> Finding:
    """The model's file."""
    if chosen.path is None:
        return judge.model(chosen.name, actual="served by an external engine", fault="", pinned=bool(chosen.digest))
    fault, size_bytes = _readable(chosen.path)
    actual = f"{chosen.path}, {size_bytes / (1 << 20):.0f} MiB"
    return judge.model(chosen.name, actual=actual, fault=fault, pinned=bool(chosen.digest))


def calibrations(proof: ProofConfig) -> Finding:
    """Whether every file that the owner gave is relied upon."""
    found = shelf(proof.calibrations, proof.calibration_keys)
    faults = [f"{fault.path.name}: {fault.message}" for fault in found.faults]
    return proof_judgements.calibrations(len(found), faults)


def verifiable(config: Config, pool: PoolConfig) -> Finding:
    """Whether a pool of several slots has a calibration, as far as that is known before its engine runs."""
    digest = config.model_named(pool.model).digest
    found = shelf(config.proof.calibrations, config.proof.calibration_keys)
    return proof_judgements.verifiable(pool.name, digest, None if digest is None else found.engines_of(digest))


def validators(config: Config) -> Finding:
    """Which pools check others, and whether they have what they need for it, as far as digests are configured."""
    found = shelf(config.proof.calibrations, config.proof.calibration_keys)
    chosen = [pool for pool in config.pools if validates(config, pool)]
    digests = {pool.name: config.model_named(pool.model).digest for pool in chosen}
    lacking = [name for name, digest in digests.items() if digest is not None and not found.engines_of(digest)]
    unknown = [name for name, digest in digests.items() if digest is None]
    return proof_judgements.validators([pool.name for pool in chosen], lacking, unknown)


def _readable(path: Path) -> tuple[str, int]:
    """(why it cannot be read, its size)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return f"{path}: {error.strerror}", 0
    try:
        return "", os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
