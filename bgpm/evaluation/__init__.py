"""Evaluation: accuracy, likelihood, calibration and benchmark rules, from score moments and labels."""
