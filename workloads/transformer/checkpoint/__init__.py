"""What a quantised checkpoint says of its formats, one file per way of saying it."""
