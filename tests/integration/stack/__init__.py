"""Tests of the embedded stack (a package, so that its conftest has a name of its own)."""
