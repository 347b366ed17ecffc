"""What lives outside the device's memory, and when it moves."""
