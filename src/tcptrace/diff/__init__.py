"""What has changed in who connects to whom: recordings, or a trace, beside a baseline."""
