"""One module a DVC stage, run as ``python -m stages.NAME``; only dvc.yaml decides when."""
