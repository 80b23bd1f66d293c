"""Exports: a chosen trial as a checkpoint with card, recipe and manifest."""
