"""What of a store outlives its process: in its own directory, and in snapshots elsewhere.

The directory
    belonging, openings    whose it is: one process at a time, one part of one cluster, no copy
    manifest               which memories there are, and which files hold their last checkpoint
    checkpoints            those of one memory: its shards', and what belongs to all of them
    verify                 whether all of it is whole

Snapshots
    place                  where they lie: a folder, or what else Arrow has a file system for
    snapshot               the store as it was at one moment, copied there
    cuts, stills           one moment through all parts of a cluster, and its rows out of the files
    manifests              those that a place and a store have: found, marked, being copied

Back again
    restoring              a store, or memories of one, out of a snapshot
    joining, resharding    out of all parts of another cluster; into other numbers of shards
"""
