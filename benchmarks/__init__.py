"""Speed and memory, measured against what one would use otherwise."""
