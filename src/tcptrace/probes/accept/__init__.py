"""Accepted TCP connections."""
