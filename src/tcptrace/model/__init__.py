"""Data about data: records and their layout, filters, columns."""
