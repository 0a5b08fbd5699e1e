"""Pairing, policies, decisions, hazards and costs: pure, without root, BCC or a kernel."""
