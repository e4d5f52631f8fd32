"""The probes of an audit, one file each with the rules of its findings."""

from diagnostics.auditing.probes.probe import Probe, probe_finding

__all__ = ["Probe", "probe_finding"]
