"""Verdicts as rows, and rows as text for the terminal and as Markdown."""
