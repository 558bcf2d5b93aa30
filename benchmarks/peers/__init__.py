"""One training loop under each recorder in turn: what recording does to the time of a step."""
