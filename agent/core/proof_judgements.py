"""What `gpu-agent doctor` says of proofs: can others verify what this node computes?"""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.doctor import Finding, Severity
from agent.core.judgements import judged, unless

_MEASURE = "`gpu-agent calibrate` measures one"


def calibrations(count: int, faults: Sequence[str]) -> Finding:
    """The files that tell verifiers what is noise."""
    return judged(
        "proof.calibrations",
        unless(not faults, Severity.WARN),
        actual="; ".join(faults) or f"{count} relied upon",
        required="every file is sound, and signed by whom you trust",
        purpose="telling noise from cheats",
        remedy="Remove what is not sound; name publishers whom you trust in proof.calibration_keys",
    )


def verifiable(pool: str, digest: str | None, engines: Sequence[str] | None) -> Finding:
    """A pool of several slots. `engines`: with which its model was measured; None where its digest is not known."""
    if digest is None:
        actual = "its model has no digest in the configuration: the log tells when the engine starts"
    else:
        actual = f"measured with {', '.join(engines)}" if engines else "no calibration: its work is unverifiable"
    return judged(
        f"proof.{pool}",
        unless(engines is None or bool(engines), Severity.WARN),
        actual=actual,
        required="a calibration for the model of a pool with several slots",
        purpose="being paid as a node whose work can be verified",
        remedy=f"Set pools.slots to 1, or set proof.calibrations: {_MEASURE}",
    )


def validators(pools: Sequence[str], uncalibrated: Sequence[str], unknown: Sequence[str]) -> Finding:
    """Pools that check what other nodes computed. `uncalibrated`: those of models without any calibration, `unknown`:
    of models without a digest in the configuration.
    """
    names = f"{', '.join(pools)}: checks what other nodes computed" if pools else "off: no pool checks other nodes"
    lacking = f"; no calibration for the model of {', '.join(uncalibrated)}" if uncalibrated else ""
    unseen = f"; {', '.join(unknown)}: calibrated or not is not known without models.digest" if unknown else ""
    return judged(
        "proof.validate",
        unless(not uncalibrated, Severity.WARN),
        actual=names + lacking + unseen,
        required="calibrations for the models of pools that check others",
        purpose="earning verdicts: without one, only claims of the pool's own exact class can be judged",
        remedy=f"Set proof.calibrations ({_MEASURE}), or proof.validate = false",
    )
