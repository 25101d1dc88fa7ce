"""Where an asset's work runs: a process of its own on this machine."""
