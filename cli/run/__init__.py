"""`calyx run`: any program as a governed task, without a change to it."""
