"""How probes are attached and their events read."""
