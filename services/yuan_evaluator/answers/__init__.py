"""What tasks have in common when they look for an answer in a text, and compare it."""
