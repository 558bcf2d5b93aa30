"""How training and its recording service talk: shared memory, the journal in it, messages. For the two ends only."""
