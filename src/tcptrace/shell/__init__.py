"""From a command line to a run: options, plan, run. click ends here."""
