"""Samplers: what proposes points."""
