"""What one operator costs on one device: time, energy and traffic, behind one interface."""
