"""The five-minute demo: models trained on the spot, then an ordinary campaign."""
