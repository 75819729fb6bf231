"""The screen of `tcptrace top`."""
