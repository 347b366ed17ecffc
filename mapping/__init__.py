"""What is decided: mappers that write plans."""
