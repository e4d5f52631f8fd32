"""The probes of an audit, one file each with the rules of its findings."""
