"""How one `/etc` takes the place of another, and what that changes."""
