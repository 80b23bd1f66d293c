"""Pages and charts made from a study."""
