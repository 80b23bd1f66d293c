"""Merge arithmetic: task vectors, magnitude index, methods; live and streamed."""
