"""What the machine is: typed, validated descriptions of devices, links and systems."""
