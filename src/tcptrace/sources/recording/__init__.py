"""Events that were kept, as a source."""
