"""The part of a recorder that runs on the training thread: nothing in it waits. Imported by the recorders only."""
