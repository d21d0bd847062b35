"""The host: the process of the operating system that runs the bodies of agent processes."""
