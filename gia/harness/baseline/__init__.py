"""Stored samples of pinned levels: their files, their comparison with a new sample, and the check of a test."""
