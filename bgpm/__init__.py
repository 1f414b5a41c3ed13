"""bgpm: the Bayesian General Preference Model and active learning for preference models."""
