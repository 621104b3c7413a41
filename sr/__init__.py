"""Super-resolution: line clock, empty line, events and images, from arrays of samples alone."""
