"""The machine-manager: images become machines, and what runs on them survives its caller."""
