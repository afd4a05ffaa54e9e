"""Memory: what was tried, how it ended, and how to find it again by meaning.

Locks, in the order in which they are taken; whoever holds one takes only those below it:

| lock | held for |
|---|---|
| Upkeep._compacting, then _backing_up | one compaction, backup or restore; a second compaction or restore is refused |
| Integrity._verifying | a verify, a restore, the signing of days |
| Trust._judging | one judgement or standing, with its audit line |
| Succession._turn | one step of a change of model |
| Shelf._rebuilding | an index that is made anew, or put in place |
| Store.change (Shelf.change is the same) | from BEGIN until RAM has taken it up; a snapshot; a swap |
| Store._write_lock | one transaction |
| Store._read_lock | one read |

Leaves, under which none of these is taken: Commits._queueing, RedoLog._lock, Quarantine._lock, Catalog._lock, those of
indexes, model and counters. To wait in Commits is to take `change`, since another thread may be committing: never do it
while holding `change` or what comes below. Recall takes `_read_lock` alone. Under `change` everybody waits who records,
so nothing slow is done there but a restore, and in a swap of models the embedding of at most succession.LATE texts.
tests/memory/test_memory_locks.py holds every path against this.
"""
