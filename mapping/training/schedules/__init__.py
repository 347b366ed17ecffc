"""Pipeline schedules: in which order each rank does the forward and backward passes of its stages, one file per schedule."""
