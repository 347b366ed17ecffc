"""Scripts that fit constants on published measurements; never imported by Offchip itself."""
