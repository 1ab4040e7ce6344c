"""Blocks: drawing their settings, running the levels of an experiment in each, and keeping what was found."""
