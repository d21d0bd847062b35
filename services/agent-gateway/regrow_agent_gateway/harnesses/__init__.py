"""The harnesses that Regrow brings itself."""
