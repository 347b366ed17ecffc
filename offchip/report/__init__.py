"""Reports: one HTML page, and static figures, of a run or a sweep."""
