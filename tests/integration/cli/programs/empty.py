"""A program without a process."""

ANSWER = 42
