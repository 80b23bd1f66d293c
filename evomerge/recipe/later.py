"""Keys and values that later versions bring: refused with that message, never ignored."""

from __future__ import annotations

TOP = {
    "surrogate": "a sampler brings its own, such as margin, bayesian and map",
    "surrogates": "a sampler brings its own, such as margin, bayesian and map",
    "adapters": "an adapter is a model like any other; name it under models",
}
ENGINES = {"ray": "several machines come with a later version; 'local' uses every GPU of this one"}
MERGEKIT = {
    "merge_method": "method under merge",
    "base_model": "base",
    "slices": "groups under merge",
}
