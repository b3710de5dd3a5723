"""Scores, tables and plots."""
