"""Connections from their beginning to their end."""
