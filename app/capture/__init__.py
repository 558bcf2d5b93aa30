"""What runs on the training thread, internal: for the recorders and `stepreel.core`. Nothing in it waits."""
