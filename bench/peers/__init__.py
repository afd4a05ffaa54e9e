"""Other task queues behind one measure; `bench/exchange_peers.py` runs them beside ours."""
