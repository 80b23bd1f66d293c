"""What is merged and searched: the campaign file, strict YAML, groups, recipe, preflight."""
