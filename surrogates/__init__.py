"""Surrogates: cheap predictions of losses from points. Import as ``evomerge.surrogates``."""

if not __name__.startswith("evomerge."):
    raise ImportError("import evomerge.surrogates; the bare name 'surrogates' is not this package")
