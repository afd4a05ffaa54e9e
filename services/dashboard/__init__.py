"""One page for one person: what the station does, how well, and what waits for an answer."""
