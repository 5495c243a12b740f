"""Disks: CloudStack volumes.

CloudStack names boot disks `ROOT-7`, so a boot disk that was made here has its GCE name in a tag; another is named like
its instance. What else its insert said of it that CloudStack has no field for (labels, description, how its image and
its type were called) is in tags too: it stays with the disk when the instance goes.
"""
