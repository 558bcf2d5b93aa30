"""What lies on disk, internal but for `recovery.recover`: for every package that writes clips or reads them.

Manifests, segments, snapshots and locks; recovery, repair and inspection.
"""
