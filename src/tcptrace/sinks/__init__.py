"""Where rows go: text, a terminal, JSON Lines, CSV; and the doctor's report."""
