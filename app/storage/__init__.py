"""What lies on disk, and what is done with it: manifests, segments, snapshots, locks; recovery, repair, inspection."""
