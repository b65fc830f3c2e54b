"""Settings as YAML: ``robots/`` (stations), ``tasks/`` and ``train/`` (presets)."""
