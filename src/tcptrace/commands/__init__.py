"""What the user asks: one module per subcommand, found through entry points."""
