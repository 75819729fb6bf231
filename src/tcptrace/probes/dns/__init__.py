"""DNS messages, and the exchanges that they make."""
