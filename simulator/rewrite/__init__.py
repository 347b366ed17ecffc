"""What a plan changes in a graph before it runs: element types, parts, pieces, views, strips, devices."""
