"""What `tcptrace top` shows: traffic added up by program, destination and the like."""
