"""Heat over time: a body that stores it and gives it off, and a governor that lowers a clock."""
