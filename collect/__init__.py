"""Everything that touches the machine: preflight, probes, drain, clock, stream, calibration."""
