"""The provider's side of black-box merging: an HTTP server that mixes by coefficients."""
