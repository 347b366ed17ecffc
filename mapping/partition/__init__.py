"""How one graph is divided over several devices."""
