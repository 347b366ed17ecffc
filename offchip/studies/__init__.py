"""Published systems, run again: scenarios, and their claims beside Offchip's figures."""
