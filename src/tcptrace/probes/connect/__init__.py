"""Attempts to connect."""
