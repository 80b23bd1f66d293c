"""Objectives: what measures a merge. Import as ``evomerge.objectives``."""

if not __name__.startswith("evomerge."):
    raise ImportError("import evomerge.objectives; the bare name 'objectives' is not this package")
