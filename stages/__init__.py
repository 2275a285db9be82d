"""The steps of dvc.yaml: each parses, calls genlib, writes its outputs."""
