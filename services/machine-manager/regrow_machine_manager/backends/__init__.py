"""The kinds of machines that Regrow has itself; each is found by its entry point `regrow.machines`."""
