"""Pipeline schedules: in which order each rank does the passes of its stages, one file per schedule."""
