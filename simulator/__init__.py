"""What then happens: device models, the system that joins them, and the plan language they execute."""
