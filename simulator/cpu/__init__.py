"""CPUs that run a graph's operators: how fast cores multiply, what their memory brings them, what barriers take."""
